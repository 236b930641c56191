"use strict";
const byId = (id) => document.getElementById(id);
const log = byId("log"), send = byId("send"), input = byId("message"), history = [];
let running = null;
const credits = (amount) => Number(amount.credits).toLocaleString("en", { maximumFractionDigits: 4 });
const read = async (path) => (await fetch(document.body.dataset.api + path)).json();
const showBalance = async () => { byId("balance").textContent = credits((await read("/balance")).available); };

function add(parent, tag, className, text = "") {
  const element = parent.appendChild(Object.assign(document.createElement(tag), { className, textContent: text }));
  log.scrollTop = log.scrollHeight;
  return element;
}

async function showCost(bubble, holdId, stopped) {  // a charge has the id of its hold
  let charge;
  for (let attempts = stopped ? 12 : 1; attempts > 0 && !charge; attempts -= 1) {
    if (stopped) await new Promise((done) => setTimeout(done, 250));  // the host settles when it notices
    charge = (await read("/transactions")).transactions.find((transaction) => transaction.id === holdId);
  }
  const tokens = Object.values(charge?.usage ?? {}).reduce((sum, count) => sum + count, 0);
  const cost = charge && `${credits(charge.amount).replace("-", "")} credits · ${tokens} tokens`
    + (stopped ? ", estimated up to where you stopped" : "");
  add(bubble, "p", "cost", cost ?? "Not charged");
  await showBalance();
}

function showProblem(bubble, problem) {
  bubble.className += " problem";
  bubble.firstChild.textContent = problem.detail;
  if (problem.purchase_url) add(bubble, "a", "buy", "Buy credits").href = problem.purchase_url;
}

async function readAnswer(response, answer) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", part;
  while (!(part = await reader.read()).done) {
    const events = (rest + part.value).split("\n\n");
    rest = events.pop();
    for (const event of events.map((text) => JSON.parse(text.slice(6)))) {
      answer.textContent += event.delta ?? "";
      if (event.error) add(answer.parentElement, "p", "cost", event.error);
    }
    log.scrollTop = log.scrollHeight;
  }
}

async function ask(message) {
  byId("welcome")?.remove();
  add(log, "article", "mine", message);
  const bubble = add(log, "article", "theirs"), answer = add(bubble, "div", "text");
  const body = JSON.stringify({ message, history, stream: true });
  running = new AbortController();
  send.textContent = "Stop";
  let holdId = null, stopped = false;
  try {
    const options = { method: "POST", headers: { "Content-Type": "application/json" }, body, signal: running.signal };
    const response = await fetch("/api/chat", options);
    if (!response.ok) return showProblem(bubble, await response.json());
    holdId = response.headers.get("X-Hold-Id");
    await readAnswer(response, answer);
  } catch (error) {
    stopped = true;
    if (error.name !== "AbortError") showProblem(bubble, { detail: "The connection was lost." });
  } finally {
    running = null;
    send.textContent = "Send";
    if (holdId) {
      history.push({ role: "user", content: message }, { role: "assistant", content: answer.textContent });
      await showCost(bubble, holdId, stopped);
    }
  }
}

byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const message = input.value.trim();
  if (running) return running.abort();
  input.value = "";
  if (message) ask(message);
});
input.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!running) byId("composer").requestSubmit();
});
for (const idea of document.querySelectorAll(".idea")) idea.addEventListener("click", () => ask(idea.textContent));
showBalance();
