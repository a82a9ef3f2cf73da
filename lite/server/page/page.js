// One question at several budgets: each card streams a reply of its own. What the model writes only ever
// becomes text nodes, never HTML.
"use strict";

const PRESETS = [20, 60, "policy"];
const byId = (id) => document.getElementById(id);
const cards = [];
let asked = ""; // the question that the cards show

class Fault extends Error {} // a message for the reader

function label(ratio) {
  return ratio === "policy" ? "policy" : `${ratio} %`;
}

function headers() {
  const key = byId("key").value.trim();
  return { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
}

async function request(path, options) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: headers() });
  } catch (fault) {
    if (fault.name === "AbortError") throw fault;
    throw new Fault("The server does not answer. Is it still running?");
  }
  if (response.ok) return response;
  if (response.status === 401) {
    byId("key-row").hidden = false;
    byId("key").focus();
    throw new Fault("This server wants an API key.");
  }
  const body = await response.json().catch(() => ({}));
  const wait = response.headers.get("retry-after");
  const message = body.error?.message ?? `The server answered ${response.status}.`;
  throw new Fault(wait ? `${message} (in about ${wait} s)` : message);
}

// What stands in the last \boxed{...} of an answer, "" where there is none.
function boxed(text) {
  const start = text.lastIndexOf("\\boxed{") + 7;
  if (start < 7) return "";
  for (let end = start, depth = 1; end < text.length; end++) {
    if (text[end] === "{") depth++;
    else if (text[end] === "}" && --depth === 0) return text.slice(start, end);
  }
  return "";
}

// The data of server-sent events, as they come.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) if (part.startsWith("data: ")) yield part.slice(6);
  }
}

class Card {
  constructor(place, ratios) {
    this.root = byId("card").content.cloneNode(true).firstElementChild;
    const find = (selector) => this.root.querySelector(selector);
    this.ratios = ratios;
    this.dial = find("input");
    this.shown = find("output");
    this.fill = find(".fill");
    this.fields = {};
    const names = ["think", "answer", "final", "think-count", "answer-count", "speed", "used", "fault"];
    for (const name of names)
      this.fields[name] = find(`.${name}`);
    this.copy = find(".copy");
    this.copy.addEventListener("click", () => this.copyReply());
    this.num = { think: 0, answer: 0 };
    this.abort = null;

    const title = find("h2");
    title.id = `card-${place}`;
    title.textContent = `Reply ${place + 1}`;
    this.root.setAttribute("aria-labelledby", title.id);
    this.fields.think.setAttribute("aria-label", `Thinking of reply ${place + 1}`);
    this.fields.answer.setAttribute("aria-label", `Answer of reply ${place + 1}`);
    if (ratios.length) {
      this.dial.max = ratios.length - 1;
      this.dial.value = ratios.indexOf(PRESETS[place]);
      this.dial.setAttribute("aria-label", `Thinking budget of reply ${place + 1}`);
      for (const ratio of ratios) {
        const mark = document.createElement("span");
        mark.textContent = ratio;
        find(".marks").append(mark);
      }
      this.dial.addEventListener("input", () => this.showDial());
      this.dial.addEventListener("change", () => asked && this.ask(asked));
      this.showDial();
    } else {
      find(".dial").hidden = true;
    }
    byId("cards").append(this.root);
  }

  get ratio() {
    return this.ratios[this.dial.value];
  }

  get isRunning() {
    return this.abort !== null;
  }

  showDial() {
    this.shown.textContent = label(this.ratio);
    this.dial.setAttribute("aria-valuetext", label(this.ratio));
  }

  set(name, text) {
    this.fields[name].textContent = text;
  }

  clear() {
    for (const name of ["think", "answer", "final", "fault"]) this.set(name, "");
    for (const name of ["think-count", "answer-count"]) this.set(name, "0");
    for (const name of ["speed", "used"]) this.set(name, "–");
    this.fields.fault.hidden = true;
    this.copy.hidden = true;
    this.num = { think: 0, answer: 0 };
    showBars();
  }

  async copyReply() {
    const parts = [this.fields.think, this.fields.answer].map((field) => field.textContent.trim());
    try {
      await navigator.clipboard.writeText(parts.filter(Boolean).join("\n\n"));
      byId("status").textContent = "The reply is copied.";
    } catch {
      byId("status").textContent = "The browser does not let this page copy; mark the text instead.";
    }
  }

  add(kind, text, count) {
    this.root.dataset.state = kind;
    const box = this.fields[kind];
    const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 24;
    box.append(text);
    if (atEnd) box.scrollTop = box.scrollHeight;
    this.num[kind] += count;
    this.set(`${kind}-count`, this.num[kind]);
    showBars();
  }

  async ask(question) {
    this.stop();
    const abort = (this.abort = new AbortController());
    this.clear();
    this.root.dataset.state = "waiting";
    showRunning();
    try {
      const body = { messages: [{ role: "user", content: question }], stream: true };
      const [system, temperature, budget] = ["system", "temperature", "budget"].map((id) => byId(id).value.trim());
      if (system) body.messages.unshift({ role: "system", content: system });
      if (temperature) body.temperature = Number(temperature);
      if (budget) body.thinking_budget = Number(budget);
      if (this.ratios.length) body.comp_ratio = this.ratio;
      await this.read(await request("/v1/chat/completions", {
        method: "POST", body: JSON.stringify(body), signal: abort.signal,
      }));
    } catch (fault) {
      if (this.abort !== abort) return; // asked again meanwhile: the card is another reply's
      if (fault.name === "AbortError") {
        this.root.dataset.state = "stopped";
      } else {
        this.root.dataset.state = "fault";
        this.set("fault", fault instanceof Fault ? fault.message : "The reply broke off.");
        this.fields.fault.hidden = false;
      }
    }
    if (this.abort !== abort) return;
    this.abort = null;
    showRunning();
  }

  async read(response) {
    for await (const data of events(response)) {
      if (data === "[DONE]") {
        this.root.dataset.state = "done";
        return;
      }
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Fault(chunk.error.message);
      for (const { delta } of chunk.choices) {
        if (delta.reasoning_content) this.add("think", delta.reasoning_content, delta.num_tokens);
        else if (delta.content) this.add("answer", delta.content, delta.num_tokens);
      }
      if (chunk.lite) this.finish(chunk.lite);
    }
    throw new Fault("The reply broke off.");
  }

  // What the server counted itself: exact, where the pieces left out markers.
  finish(lite) {
    this.num = { think: lite.think_tokens, answer: this.num.answer };
    this.set("think-count", lite.think_tokens);
    this.copy.hidden = false;
    this.set("speed", Math.round(lite.tokens_per_second));
    this.set("final", boxed(this.fields.answer.textContent));
    this.set("used", lite.comp_ratio_used === null ? "–" : label(lite.comp_ratio_used));
    showBars();
  }

  stop() {
    this.abort?.abort();
  }
}

// Bars compare thinking over the cards.
function showBars() {
  const most = Math.max(1, ...cards.map((card) => card.num.think));
  for (const card of cards) card.fill.style.width = `${(100 * card.num.think) / most}%`;
}

function showRunning() {
  const running = cards.filter((card) => card.isRunning).length;
  byId("stop").disabled = running === 0;
  const done = cards.filter((card) => card.root.dataset.state === "done");
  if (running) byId("status").textContent = running === 1 ? "1 reply is being written." : `${running} replies are being written.`;
  else if (done.length)
    byId("status").textContent = "Thinking tokens: " + done
      .map((card) => (card.ratios.length ? `${card.num.think} at ${label(card.ratio)}` : card.num.think))
      .join(", ") + ".";
  else byId("status").textContent = "";
}

// A button that asks a text.
function asking(text) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "example";
  button.textContent = text;
  button.addEventListener("click", () => {
    byId("question").value = text;
    byId("form").requestSubmit();
  });
  return button;
}

// Questions asked on this page, the last first; they are gone when it closes.
function remember(question) {
  const list = byId("history").querySelector("div");
  for (const button of [...list.children]) if (button.textContent === question) button.remove();
  list.prepend(asking(question));
  byId("history").hidden = false;
}

async function start() {
  byId("form").addEventListener("submit", async (event) => {
    event.preventDefault();
    asked = byId("question").value.trim();
    if (!asked) {
      for (const card of cards) {
        card.stop();
        card.clear();
        card.root.dataset.state = "idle";
      }
      byId("status").textContent = "Write a question first.";
      byId("question").focus();
      return;
    }
    remember(asked);
    if (!cards.length) await load(); // the key was missing
    for (const card of cards) card.ask(asked);
  });
  byId("question").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("form").requestSubmit();
  });
  const stop = () => cards.forEach((card) => card.stop());
  byId("stop").addEventListener("click", stop);
  document.addEventListener("keydown", (event) => event.key === "Escape" && stop());
  await load();
}

async function load() {
  try {
    const { data: [model] } = await (await request("/v1/models")).json();
    byId("model").textContent = model.comp_ratios.length
      ? `${model.id} thinks in 20 to 100 % of its tokens, as each dial says. On policy it chooses for itself.`
      : `${model.id} has no dial.`;
    if (model.about) {
      byId("model").append(` ${model.about}`);
      byId("examples").append("Try:", ...model.examples.map(asking));
      byId("examples").hidden = false;
    }
    const num = model.comp_ratios.length ? PRESETS.length : 1;
    for (let place = 0; place < num; place++) cards.push(new Card(place, model.comp_ratios));
  } catch (fault) {
    byId("model").textContent = fault.message;
  }
}

start();
