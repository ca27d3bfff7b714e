"use strict";
(() => {
  const main = document.querySelector("main");
  const byId = (id) => document.getElementById(id);
  const { origin, vendor, transaction, password } = main.dataset;
  const words = JSON.parse(main.dataset.words);
  const claim = { vendor, transaction_id: transaction, password };
  const form = byId("form"), pay = byId("pay"), path = byId("path"), outcome = byId("outcome"), summary = byId("summary");
  const fields = ["card-number", "card-expiry", "card-pin"];
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
    const text = live ? words.path_live : words.path_dead;
    path.dataset.live = String(live);
    // Said again, it would be read out again.
    if (path.textContent !== text) path.textContent = text;
    pay.disabled = busy || !live;
  };

  const probe = async () => {
    for (;;) {
      const live = busy || (await ask("/v1/live").then((answer) => answer.ok, () => false));
      if (form.hidden) return;
      if (!busy) setPath(live);
      await wait(live ? 15000 : 2000);
    }
  };

  const luhn = (digits) =>
    [...digits].reverse().reduce((sum, digit, at) => {
      const value = Number(digit) * (at % 2 ? 2 : 1);
      return sum + (value > 9 ? value - 9 : value);
    }, 0) % 10 === 0;

  const wrong = (number, expiry, pin) => {
    const found = {};
    if (!/^\d{12,19}$/.test(number)) found["card-number"] = words.number_length;
    else if (!luhn(number)) found["card-number"] = words.number_mistyped;
    if (!/^(0[1-9]|1[0-2])\/\d\d$/.test(expiry)) found["card-expiry"] = words.expiry_form;
    if (pin && !/^\d{4,12}$/.test(pin)) found["card-pin"] = words.pin_form;
    return found;
  };

  // Each field says what is wrong with it, and the summary leads to the fields.
  const complain = (found) => {
    const list = summary.querySelector("ul");
    list.replaceChildren();
    for (const id of fields) {
      const text = found[id] ?? "";
      byId(id + "-error").textContent = text;
      if (text) byId(id).setAttribute("aria-invalid", "true");
      else byId(id).removeAttribute("aria-invalid");
      if (!text) continue;
      const link = document.createElement("a");
      link.href = "#" + id;
      link.textContent = text;
      link.addEventListener("click", (event) => { event.preventDefault(); byId(id).focus(); });
      const item = document.createElement("li");
      item.append(link);
      list.append(item);
    }
    const any = list.childElementCount > 0;
    summary.hidden = !any;
    if (any) summary.focus();
    return any;
  };

  const words_for = (state, message) => words[state] ?? message;

  // After a reply that was lost, or while money is being taken back: ask until it is decided.
  const follow = async () => {
    for (let tries = 0; tries < 60; tries += 1) {
      await wait(1000);
      const answer = await ask("/v1/outcome", claim).then((a) => (a.ok ? a.json() : null), () => null);
      if (answer === null) continue;
      show(answer.state, words_for(answer.state, answer.message));
      if (answer.state === "open") return "open";
      if (!["authorising", "reversing"].includes(answer.state)) return answer.state;
    }
    show("unknown", words.lost);
    return "unknown";
  };

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (busy || path.dataset.live !== "true") return;
    const number = byId("card-number").value.replace(/[ -]/g, "");
    const expiry = byId("card-expiry").value.trim();
    const pin = byId("card-pin").value.trim();
    if (complain(wrong(number, expiry, pin))) return;
    busy = true;
    pay.disabled = true;
    show("sending", words.asking);
    let state = "unknown";
    try {
      const answer = await ask("/v1/payments", { transaction: claim, card_number: number, expiry, ...(pin && { pin }) });
      const body = await answer.json();
      if (answer.ok) {
        state = body.state;
        show(state, words_for(state, body.message));
        if (["authorising", "reversing"].includes(state)) state = await follow();
      } else {
        state = answer.status === 422 || answer.status === 503 ? "open" : "refused";
        show("refused", words_for(body.error.code, body.error.message));
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
      form.hidden = true;
      path.hidden = true;
    }
  });

  // From here on the script answers for the form.
  form.noValidate = true;
  pay.disabled = true;
  path.textContent = words.path_unknown;
  path.hidden = false;
  probe();
})();
