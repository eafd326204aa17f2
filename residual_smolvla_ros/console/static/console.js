// What acts on the session, and the cameras. Both go by HTTP, so that neither waits for the page's
// socket, which only carries what there is to see.
"use strict";

const FRAME_MS = 100; // a camera is asked for a frame at most so often
const LOST_MS = 2000; // without word from the server for so long, the connection counts as lost
const JOG_MS = 100; // the server stops a joint that it has not heard of for three of these
const HOLD_TRY_MS = 1500;
const HOLD_RETRY_MS = 200;
const HOLD_END_MS = 30000;
const KEYS = { s: "success", f: "failure", r: "discard", ArrowLeft: "discard", Escape: "stop" };

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const element = (id) => document.getElementById(id);

function post(path, options = {}) {
  return fetch(path, { method: "POST", keepalive: true, ...options });
}

async function answerOf(response) {
  if (response.ok) return response.json();
  return { success: false, message: `${response.status}: ${(await response.text()).trim()}` };
}

function toast(message, success) {
  globalThis.Quasar?.Notify?.create({
    message,
    type: success ? "positive" : "negative",
    position: "bottom-right",
    timeout: success ? 2500 : 6000,
    classes: "toast",
    actions: [{ icon: "close", color: "white", round: true }],
  });
}

// -- HOLD: at once, past everything else, again and again until it is confirmed ------------------

let holdNumber = 0;
let frameRequest = new AbortController();

function sayHold(text, kind) {
  element("hold-said").textContent = text;
  element("hold-said").className = kind;
}

async function hold() {
  const number = ++holdNumber;
  frameRequest.abort(); // leaves the line, and a connection, to this
  sayHold("HOLD: sending", "busy");
  const end = performance.now() + HOLD_END_MS;
  for (let attempt = 1; number === holdNumber && performance.now() < end; attempt++) {
    try {
      const options = { signal: AbortSignal.timeout(HOLD_TRY_MS), priority: "high" };
      const answer = await answerOf(await post("/call/hold", options));
      if (number !== holdNumber) return;
      if (answer.success) return sayHold(`HOLD: ${answer.message}`, "done");
      sayHold(`HOLD failed: ${answer.message}`, "failed");
    } catch {
      sayHold(`HOLD not confirmed, try ${attempt}: use the power switch`, "failed");
    }
    await pause(HOLD_RETRY_MS);
  }
}

// -- the other buttons ---------------------------------------------------------------------------

async function call(action) {
  if (action === "release") {
    holdNumber++; // ends the tries of a HOLD
    sayHold("", "");
  }
  try {
    const answer = await answerOf(await post(`/call/${action}`));
    toast(`${action}: ${answer.message}`, answer.success);
  } catch {
    toast(`${action}: not sent, no connection`, false);
  }
}

let jogging = null;

async function jog(button) {
  const { jog: joint, direction } = button.dataset;
  const mine = (jogging = {});
  const path = (value) => `/jog/${encodeURIComponent(joint)}/${value}`;
  button.classList.add("pressed");
  try {
    while (jogging === mine) {
      const answer = await answerOf(await post(path(direction)));
      if (!answer.success) {
        toast(answer.message, false);
        break;
      }
      await pause(JOG_MS);
    }
    await post(path(0));
  } catch {
    toast(`${joint}: no connection, it stops by itself`, false);
  }
  button.classList.remove("pressed");
  if (jogging === mine) jogging = null;
}

// When the finger comes down, not when it leaves: HOLD is for haste.
addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  if (event.target.closest("#hold")) hold();
  const button = event.target.closest("[data-jog]");
  if (button) jog(button);
});
for (const name of ["pointerup", "pointercancel", "blur", "visibilitychange"]) {
  addEventListener(name, () => (jogging = null));
}
addEventListener("contextmenu", (event) => {
  if (event.target.closest?.("[data-jog], #hold")) event.preventDefault();
});

addEventListener("click", (event) => {
  const button = event.target.closest("[data-call]");
  if (button) call(button.dataset.call);
  // Else a later Enter would press it once more.
  if (event.detail) event.target.closest("button")?.blur();
});

// -- keys: space holds wherever the focus is; none starts, releases, takes over or moves ----------

addEventListener(
  "keydown",
  (event) => {
    const plain = !event.ctrlKey && !event.altKey && !event.metaKey;
    const writes = event.target.closest?.("input, textarea, select, [contenteditable]");
    if (!plain || writes) return;
    if (event.key === " ") {
      event.preventDefault();
      event.stopImmediatePropagation();
      if (!event.repeat) hold();
    } else if (event.key === "Enter" && event.repeat) {
      event.preventDefault();
    } else if (event.key in KEYS && !event.repeat && !event.shiftKey) {
      event.preventDefault();
      call(KEYS[event.key]);
    }
  },
  true,
);
// A focused button acts when space is let go.
addEventListener("keyup", (event) => event.key === " " && event.preventDefault(), true);

// -- cameras: one request at a time, the next frame when the last is here -------------------------

const seen = {}; // camera: {stamp, at: of the last frames, url}

async function nextFrame(img) {
  const name = img.dataset.camera;
  const state = (seen[name] ??= { stamp: "0", at: [] });
  const path = `/camera/${encodeURIComponent(name)}?seen=${state.stamp}`;
  const response = await fetch(path, { signal: frameRequest.signal, priority: "low" });
  if (response.status !== 200) return;
  const url = URL.createObjectURL(await response.blob());
  state.stamp = response.headers.get("x-stamp");
  state.at = [...state.at.slice(-9), performance.now()];
  img.src = url;
  await img.decode().catch(() => {});
  if (state.url) URL.revokeObjectURL(state.url);
  state.url = url;
}

function caption(name) {
  const at = seen[name]?.at ?? [];
  const last = at[at.length - 1];
  const age = last === undefined ? Infinity : performance.now() - last;
  if (age === Infinity) return `${name}: no image yet`;
  if (age > LOST_MS) return `${name}: no image for ${(age / 1000).toFixed(0)} s`;
  if (at.length < 2) return name;
  return `${name} · ${((at.length - 1) / ((last - at[0]) / 1000)).toFixed(0)} Hz`;
}

async function cameras() {
  for (;;) {
    const started = performance.now();
    for (const img of document.querySelectorAll("img[data-camera]")) {
      if (document.hidden) break;
      try {
        await nextFrame(img);
      } catch {
        if (frameRequest.signal.aborted) frameRequest = new AbortController();
        await pause(FRAME_MS);
      }
    }
    await pause(Math.max(10, FRAME_MS - (performance.now() - started)));
  }
}

// -- what the server says, and that it says something ---------------------------------------------

let heardAt = performance.now();

// Called by the server with each update; the next one is sent once this has answered.
globalThis.consoleSays = (said) => {
  heardAt = performance.now();
  Object.assign(document.body.dataset, said);
  return document.hidden;
};

function watch() {
  const silence = performance.now() - heardAt;
  const lost = silence > LOST_MS || globalThis.socket?.connected === false;
  document.body.classList.toggle("is-lost", lost);
  element("lost").hidden = !lost;
  if (lost) {
    element("lost").textContent =
      `Connection lost: values are ${(silence / 1000).toFixed(0)} s old. HOLD is sent all the same.`;
  }
  for (const label of document.querySelectorAll("[data-caption]")) {
    const text = caption(label.dataset.caption);
    if (label.textContent !== text) label.textContent = text;
  }
}

setInterval(watch, 200);
cameras();
