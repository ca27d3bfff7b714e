"use strict";
(() => {
  const main = document.querySelector("main");
  const byId = (id) => document.getElementById(id);
  const { origin, vendor, transaction, password } = main.dataset;
  const claim = { vendor, transaction_id: transaction, password };
  const pay = byId("pay"), path = byId("path"), outcome = byId("outcome"), cardError = byId("card-error");
  const wait = (ms) => new Promise((done) => setTimeout(done, ms));
  let busy = false;

  const ask = (route, body) =>
    fetch(origin + route, {
      method: body ? "POST" : "GET",
      headers: body ? { "content-type": "application/json" } : {},
      body: body && JSON.stringify(body),
      cache: "no-store", credentials: "omit", redirect: "error", referrerPolicy: "no-referrer",
      signal: AbortSignal.timeout(body ? 20000 : 5000),
    });

  const show = (state, message) => {
    outcome.dataset.state = state;
    outcome.textContent = message;
    outcome.focus();
  };

  const setPath = (live) => {
    path.dataset.live = String(live);
    path.textContent = live
      ? "The private path is live."
      : "The private path cannot be reached. Your card number will not be sent. Use the connection of your member provider, or pay another way at the shop.";
    pay.disabled = busy || !live;
  };

  const probe = async () => {
    while (!busy) {
      const live = await ask("/v1/live").then((answer) => answer.ok, () => false);
      if (busy) return;
      setPath(live);
      await wait(live ? 15000 : 2000);
    }
  };

  const luhn = (digits) =>
    [...digits].reverse().reduce((sum, digit, at) => {
      const value = Number(digit) * (at % 2 ? 2 : 1);
      return sum + (value > 9 ? value - 9 : value);
    }, 0) % 10 === 0;

  const problem = (number, expiry, pin) => {
    if (!/^\d{12,19}$/.test(number)) return "A card number has 12 to 19 digits.";
    if (!luhn(number)) return "This card number has a mistyped digit.";
    if (!/^(0[1-9]|1[0-2])\/\d\d$/.test(expiry)) return "Give the expiry as MM/YY, such as 09/29.";
    if (pin && !/^\d{4,12}$/.test(pin)) return "A PIN has 4 to 12 digits. Leave it out if your card has none.";
    return "";
  };

  // After a reply that was lost, or while money is being taken back: ask until it is decided.
  const follow = async () => {
    for (let tries = 0; tries < 60; tries += 1) {
      await wait(1000);
      const answer = await ask("/v1/outcome", claim).then((a) => (a.ok ? a.json() : null), () => null);
      if (answer === null) continue;
      show(answer.state, answer.message);
      if (answer.state === "open") return "open";
      if (!["authorising", "reversing"].includes(answer.state)) return answer.state;
    }
    show("unknown", "The private path cannot be reached. Look at the shop whether your order is paid.");
    return "unknown";
  };

  byId("form").addEventListener("submit", async (event) => {
    event.preventDefault();
    if (busy) return;
    const number = byId("card-number").value.replace(/[ -]/g, "");
    const expiry = byId("card-expiry").value.trim();
    const pin = byId("card-pin").value.trim();
    cardError.textContent = problem(number, expiry, pin);
    if (cardError.textContent) return;
    busy = true;
    pay.disabled = true;
    show("sending", "Asking the bank…");
    let state = "unknown";
    try {
      const answer = await ask("/v1/payments", { transaction: claim, card_number: number, expiry, ...(pin && { pin }) });
      const body = await answer.json();
      if (answer.ok) {
        state = body.state;
        show(state, body.message);
        if (["authorising", "reversing"].includes(state)) state = await follow();
      } else {
        state = answer.status === 422 || answer.status === 503 ? "open" : "refused";
        show("refused", body.error.message);
      }
    } catch {
      state = await follow();
    }
    byId("card-number").value = "";
    byId("card-pin").value = "";
    busy = false;
    if (state === "open") {
      setPath(true);
    } else {
      byId("form").hidden = true;
      path.hidden = true;
    }
  });

  probe();
})();
