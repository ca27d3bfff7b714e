#!/usr/bin/env node
// Checks one delivery by Ed25519 (v1a) or by HMAC (v1), with nothing but Node itself.
//
//     RESULT_KEY=BASE64 VENDOR=shop verify.mjs WEBHOOK-ID WEBHOOK-TIMESTAMP WEBHOOK-SIGNATURE < BODY
//
// or with WEBHOOK_SECRET=whsec_… in the place of the key. The exit code is 0 if the result is to be believed. NOW stands
// for the clock in tests.
import { createHmac, createPublicKey, timingSafeEqual, verify } from "node:crypto";
import { readFileSync } from "node:fs";

export function believe({ key, secret, vendor }, { id, timestamp, signatures }, body, now) {
  if (!/^\d+$/.test(timestamp) || Math.abs(now - Number(timestamp)) > 300) throw new Error("too old, or from the future");
  const signed = Buffer.concat([Buffer.from(`${id}.${timestamp}.`), body]); // the bytes as they came
  const of = (version) => signatures.split(" ").filter((one) => one.startsWith(`${version},`))
    .map((one) => Buffer.from(one.slice(version.length + 1), "base64"));
  let good;
  if (key) {
    // The 32 bytes as a SubjectPublicKeyInfo (RFC 8410).
    const der = Buffer.concat([Buffer.from("302a300506032b6570032100", "hex"), Buffer.from(key, "base64")]);
    const spki = createPublicKey({ key: der, format: "der", type: "spki" });
    good = of("v1a").some((signature) => verify(null, signed, spki, signature));
  } else {
    const code = createHmac("sha256", Buffer.from(secret.replace(/^whsec_/, ""), "base64")).update(signed).digest();
    good = of("v1").some((found) => found.length === code.length && timingSafeEqual(found, code));
  }
  if (!good) throw new Error("no signature of ours");
  const result = JSON.parse(body);
  if (result.vendor !== vendor) throw new Error("for another vendor");
  return result; // act on it once for each webhook-id
}

const { RESULT_KEY: key, WEBHOOK_SECRET: secret, VENDOR: vendor, NOW } = process.env;
const [id, timestamp, signatures] = process.argv.slice(2);
try {
  const now = Number(NOW ?? Math.floor(Date.now() / 1000));
  const result = believe({ key, secret, vendor }, { id, timestamp, signatures }, readFileSync(0), now);
  console.log(result.transaction_id, result.verdict);
} catch (error) {
  console.error(error.message);
  process.exit(1);
}
