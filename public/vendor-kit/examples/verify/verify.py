#!/usr/bin/env python3
"""Checks one delivery by HMAC (v1), with nothing but the standard library.

    WEBHOOK_SECRET=whsec_… VENDOR=shop verify.py WEBHOOK-ID WEBHOOK-TIMESTAMP WEBHOOK-SIGNATURE < BODY

The exit code is 0 if the result is to be believed. NOW stands for the clock in tests.
"""
import base64
import hashlib
import hmac
import json
import os
import sys
import time


def believe(secret, vendor, headers, body, now):
    """The result in `body`, or ValueError."""
    name, timestamp, signatures = headers
    if not timestamp.isascii() or not timestamp.isdigit() or abs(now - int(timestamp)) > 300:
        raise ValueError("too old, or from the future")
    key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    signed = name.encode() + b"." + timestamp.encode() + b"." + body  # the bytes as they came
    code = b"v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest())
    if not any(hmac.compare_digest(code, one.encode()) for one in signatures.split(" ")):
        raise ValueError("no signature of ours")
    result = json.loads(body)
    if result["vendor"] != vendor:
        raise ValueError("for another vendor")
    return result  # act on it once for each webhook-id


if __name__ == "__main__":
    try:
        now = int(os.environ.get("NOW", time.time()))
        result = believe(os.environ["WEBHOOK_SECRET"], os.environ["VENDOR"], sys.argv[1:4], sys.stdin.buffer.read(), now)
    except ValueError as error:
        sys.exit(str(error))
    print(result["transaction_id"], result["verdict"])
