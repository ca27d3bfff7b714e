<?php
// Checks one delivery by Ed25519 (v1a, with the sodium that comes with PHP) or by HMAC (v1).
//
//     RESULT_KEY=BASE64 VENDOR=shop php verify.php WEBHOOK-ID WEBHOOK-TIMESTAMP WEBHOOK-SIGNATURE < BODY
//
// or with WEBHOOK_SECRET=whsec_… in the place of the key. The exit code is 0 if the result is to be believed. NOW stands
// for the clock in tests.

function believe(array $trust, string $id, string $timestamp, string $signatures, string $body, int $now): array
{
    if (!ctype_digit($timestamp) || abs($now - (int) $timestamp) > 300) {
        throw new RuntimeException('too old, or from the future');
    }
    $signed = "$id.$timestamp.$body"; // the bytes as they came
    $good = false;
    foreach (explode(' ', $signatures) as $one) {
        [$version, $value] = explode(',', $one, 2) + [1 => ''];
        $value = base64_decode($value, true);
        if ($value === false) {
            continue;
        }
        if ($version === 'v1a' && isset($trust['key']) && strlen($value) === SODIUM_CRYPTO_SIGN_BYTES) {
            $good = $good || sodium_crypto_sign_verify_detached($value, $signed, base64_decode($trust['key'], true));
        }
        if ($version === 'v1' && isset($trust['secret'])) {
            $key = base64_decode(substr($trust['secret'], strlen('whsec_')), true);
            $good = $good || hash_equals(hash_hmac('sha256', $signed, $key, true), $value);
        }
    }
    if (!$good) {
        throw new RuntimeException('no signature of ours');
    }
    $result = json_decode($body, true, 16, JSON_THROW_ON_ERROR);
    if (($result['vendor'] ?? null) !== $trust['vendor']) {
        throw new RuntimeException('for another vendor');
    }
    return $result; // act on it once for each webhook-id
}

$trust = ['vendor' => getenv('VENDOR')];
foreach (['key' => 'RESULT_KEY', 'secret' => 'WEBHOOK_SECRET'] as $name => $variable) {
    if (getenv($variable) !== false) {
        $trust[$name] = getenv($variable);
    }
}
try {
    $now = (int) (getenv('NOW') ?: time());
    $result = believe($trust, $argv[1], $argv[2], $argv[3], stream_get_contents(STDIN), $now);
    echo $result['transaction_id'], ' ', $result['verdict'], "\n";
} catch (Exception $error) {
    fwrite(STDERR, $error->getMessage() . "\n");
    exit(1);
}
