#!/bin/sh
# Checks one delivery by Ed25519 (v1a), with openssl 3 and a shell.
#
#     RESULT_KEY=BASE64 VENDOR=shop verify.sh WEBHOOK-ID WEBHOOK-TIMESTAMP WEBHOOK-SIGNATURE < BODY
#
# The exit code is 0 if the result is to be believed. NOW stands for the clock in tests.
set -eu
id=$1 timestamp=$2 signatures=$3
now=${NOW:-$(date +%s)}
case $timestamp in '' | *[!0-9]*) echo "not a time" >&2; exit 1 ;; esac
[ "$((now - timestamp))" -le 300 ] && [ "$((timestamp - now))" -le 300 ] || { echo "too old, or from the future" >&2; exit 1; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/body"
{ printf '%s.%s.' "$id" "$timestamp"; cat "$folder/body"; } > "$folder/signed" # the bytes as they came
# The 32 bytes as a SubjectPublicKeyInfo (RFC 8410).
{ printf '\060\052\060\005\006\003\053\145\160\003\041\000'; printf %s "$RESULT_KEY" | openssl base64 -d -A; } > "$folder/key"
for one in $signatures; do
    case $one in v1a,*) ;; *) continue ;; esac
    printf %s "${one#v1a,}" | openssl base64 -d -A > "$folder/signature" || continue
    if openssl pkeyutl -verify -pubin -keyform DER -inkey "$folder/key" -rawin -in "$folder/signed" \
        -sigfile "$folder/signature" > /dev/null 2>&1; then
        # A JSON parser belongs here; the transaction server writes the vendor first.
        case $(cat "$folder/body") in '{"vendor":"'"$VENDOR"'",'*) cat "$folder/body"; exit 0 ;; esac
        echo "for another vendor" >&2
        exit 1
    fi
done
echo "no signature of ours" >&2
exit 1
