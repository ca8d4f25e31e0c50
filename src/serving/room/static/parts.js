// What all views share: questions to the service, the address, and small pieces of the page.
import { h } from "/room/vendor/preact.mjs";
import { useCallback, useEffect, useId, useRef, useState } from "/room/vendor/hooks.mjs";
import htm from "/room/vendor/htm.mjs";

export const html = htm.bind(h);
export { useCallback, useEffect, useRef, useState };

// ---- questions ----
const TOKEN = "segue-token";
export const setToken = (token) => sessionStorage.setItem(TOKEN, token);

export class Refusal extends Error {
  constructor(status, reason) {
    super(reason);
    this.status = status;
  }
}

export async function request(path, { method = "GET", body, signal } = {}) {
  const headers = {};
  const token = sessionStorage.getItem(TOKEN);
  if (token) headers.authorization = `Bearer ${token}`;
  let response;
  try {
    response = await fetch(path, { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, "The service cannot be reached. Is it running?");
  }
  if (response.ok) return response;
  if (response.status === 401) window.dispatchEvent(new Event("segue-token"));
  let reason = `The service answered ${response.status}.`;
  try {
    reason = (await response.json()).reason ?? reason;
  } catch {
    // it is no JSON
  }
  throw new Refusal(response.status, reason);
}

export const ask = async (name, { query, ...rest } = {}) =>
  (await request(`/room/api/${name}${query ? `?${new URLSearchParams(query)}` : ""}`, rest)).json();

// The answer to a question; the last one stays while a new one is asked, so that nothing jumps.
export function useAnswer(name, query, { isOff = false, again = 0 } = {}) {
  const [state, set] = useState({ answer: null, error: null, isWaiting: !isOff });
  const key = JSON.stringify(query ?? null);
  useEffect(() => {
    if (isOff) return undefined;
    const stop = new AbortController();
    set((before) => ({ ...before, isWaiting: true }));
    ask(name, { query, signal: stop.signal }).then(
      (answer) => set({ answer, error: null, isWaiting: false }),
      (error) => error.name !== "AbortError" && set((before) => ({ ...before, error, isWaiting: false })),
    );
    return () => stop.abort();
  }, [name, key, isOff, again]);
  return state;
}

// ---- the address: #/view?key=value ----
export function readAddress() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  return { view: path || "compare", given: Object.fromEntries(new URLSearchParams(query)) };
}

const clean = (given) => {
  const kept = Object.entries(given).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return kept.length ? `?${kept.map(([k, v]) => `${k}=${encodeURIComponent(v).replaceAll("%2C", ",").replaceAll("%3A", ":")}`).join("&")}` : "";
};
export const addressOf = (view, given = {}) => `#/${view}${clean(given)}`;

export function goTo(view, given, { isReplaced = false } = {}) {
  const address = addressOf(view, given);
  if (address === location.hash) return;
  if (isReplaced) history.replaceState(null, "", address);
  else history.pushState(null, "", address);
  window.dispatchEvent(new Event("segue-address"));
}

// ---- words and numbers ----
export const count = (value) => (value === null || value === undefined ? "–" : value.toLocaleString("en"));
export const nameOf = (track) => track.title || `Track ${track.track}`;
export const artistOf = (track) => track.artist || "unknown artist";
export const short = (name) => {
  const plain = name.replace(/^run:([0-9a-f]{8})[0-9a-f]*$/, "run:$1");
  const parts = plain.split("/");
  return parts.length > 2 && plain.endsWith(".jsonl") ? parts.at(-2) : plain;
};
export const labelOf = (player) => short(player.label);
export const colourOf = (keys, key) => `colour-${Math.max(0, keys.indexOf(key)) % 6}`;
export const plays = (track, knows) => (knows && track.plays !== null ? `${count(track.plays)} plays` : "");

// ---- pieces ----
export const Notice = ({ title, children, kind = "empty", action }) => html`
  <div class=${`notice notice-${kind}`} role=${kind === "error" ? "alert" : "status"}>
    <h2>${title}</h2>
    <p>${children}</p>
    ${action}
  </div>`;

export const Trouble = ({ error, onAgain }) => html`
  <${Notice} kind="error" title=${error.status === 404 ? "Not here" : "That did not work"}
    action=${onAgain && html`<button class="button" onClick=${onAgain}>Try again</button>`}>${error.message}<//>`;

export const Bones = ({ lines = 8 }) => html`
  <div class="bones" aria-busy="true" aria-label="loading">
    ${Array.from({ length: lines }, (_, place) => html`<span key=${place} style=${{ width: `${92 - ((place * 17) % 40)}%` }}></span>`)}
  </div>`;

// Icons are drawn: a font may lack their characters.
const ICONS = {
  play: "M3 1.5v13l11-6.5z",
  skip: "M1 1.5v13l8.5-6.5zM11 1.5h3.5v13H11z",
  stop: "M2 2h12v12H2z",
  note: "M6 1.5 14.5 0v10.8a2.6 2.6 0 1 1-1.7-2.4V4L7.7 4.9v8.3A2.6 2.6 0 1 1 6 10.8z",
  sun: "M8 4.3a3.7 3.7 0 1 1 0 7.4 3.7 3.7 0 0 1 0-7.4zM7.2 0h1.6v2.8H7.2zM7.2 13.2h1.6V16H7.2zM0 7.2h2.8v1.6H0zM13.2 7.2H16v1.6h-2.8zM1.8 2.9l1.1-1.1 2 2-1.1 1.1zM11.1 12.2l1.1-1.1 2 2-1.1 1.1zM13.1 1.8l1.1 1.1-2 2-1.1-1.1zM3.8 11.1l1.1 1.1-2 2-1.1-1.1z",
  moon: "M6 .7A7.5 7.5 0 1 0 15.3 10 6.2 6.2 0 0 1 6 .7z",
  star: "m8 .8 2.2 4.7 5.1.6-3.8 3.5 1 5L8 12.1l-4.5 2.5 1-5L.7 6.1l5.1-.6z",
  diamond: "M8 1.5 14.5 8 8 14.5 1.5 8z",
};
export const Icon = ({ name }) =>
  html`<svg class="icon" viewBox="0 0 16 16" aria-hidden="true" focusable="false"><path d=${ICONS[name]} /></svg>`;

// A table; on a phone each line is a block with the name of the column before each value.
export const Table = ({ label, columns, lines }) => html`
  <div class="scroll" tabindex="0" role="region" aria-label=${label}>
    <table class="numbers"><thead><tr>${columns.map(({ name, title, isNumber, isHidden }) =>
      html`<th key=${name} scope="col" title=${title} class=${isNumber ? "number" : ""}>${isHidden ? html`<span class="hidden">${name}</span>` : name}</th>`)}</tr></thead>
      <tbody>${lines.map(({ key, cells }) => html`<tr key=${key}>${cells.map((cell, place) => {
        const { name, isNumber, isHidden } = columns[place];
        const { text = cell, ...more } = cell?.text === undefined ? {} : cell;
        return place === 0
          ? html`<th key=${name} scope="row">${text}</th>`
          : html`<td key=${name} data-column=${isHidden ? "" : name} ...${more} class=${`${isNumber ? "number" : ""} ${more.class ?? ""}`}><span class="cell">${text}</span></td>`;
      })}</tr>`)}</tbody></table></div>`;

export const Bars = ({ parts, scale = 1 }) =>
  parts &&
  html`<span class="bars">
    ${Object.entries(parts).map(
      ([name, value]) => html`<span key=${name} class="bar" title=${`${name}: ${value.toFixed(3)}`}>
        <span class="bar-name">${name}</span>
        <span class="bar-space"><span class=${`bar-fill${value < 0 ? " is-negative" : ""}`}
          style=${{ width: `${Math.min(100, (100 * Math.abs(value)) / scale)}%` }}></span></span>
        <span class="bar-value">${value.toFixed(2)}</span>
      </span>`,
    )}
  </span>`;

// A button that plays the preview of a track. One player for the whole page, therefore only one preview plays.
const player = new Audio();
let playing = null;
const tell = () => window.dispatchEvent(new Event("segue-audio"));
const hush = () => {
  playing = null;
  tell();
};
player.onended = hush;
window.addEventListener("segue-address", () => player.pause());
player.onpause = () => !player.ended && hush();

async function hear(track) {
  const isOther = playing !== track.track;
  player.pause();
  if (!isOther) return;
  if (player.src.startsWith("blob:")) URL.revokeObjectURL(player.src);
  player.src =
    track.audio === "local" ? URL.createObjectURL(await (await request(`/room/api/audio?track=${encodeURIComponent(track.track)}`)).blob()) : track.audio;
  await player.play();
  playing = track.track;
  tell();
}

export function Listen({ track }) {
  const [isPlaying, set] = useState(playing === track.track);
  const [problem, setProblem] = useState("");
  useEffect(() => {
    const look = () => set(playing === track.track);
    window.addEventListener("segue-audio", look);
    return () => window.removeEventListener("segue-audio", look);
  }, [track.track]);
  if (!track.audio) return null;
  return html`<button class="icon-button listen" aria-pressed=${isPlaying ? "true" : "false"} aria-label=${`preview of ${nameOf(track)}`}
    title=${problem || (isPlaying ? "Stop" : "Listen")} disabled=${problem !== ""}
    onClick=${() => hear(track).catch((error) => setProblem(`It cannot be played: ${error.message}`))}><${Icon} name=${isPlaying ? "stop" : "note"} /></button>`;
}

// A search field with suggestions (the combobox pattern of WAI-ARIA).
export function Search({ label, onChoose, knowsPlays, autofocus = false }) {
  const [typed, setTyped] = useState("");
  const [state, set] = useState({ found: [], for: "", error: null, isBuilding: false });
  const [isOpen, setOpen] = useState(false);
  const [active, setActive] = useState(0);
  const id = useId();
  const field = useRef(null);
  useEffect(() => {
    if (autofocus && matchMedia("(hover: hover)").matches) field.current?.focus();
  }, []);
  useEffect(() => {
    if (!typed.trim()) return undefined;
    const stop = new AbortController();
    let later;
    const look = () =>
      ask("search", { query: { q: typed }, signal: stop.signal }).then(
        (answer) => {
          set({ found: answer.found, for: typed, error: null, isBuilding: answer.is_building });
          setActive(0);
          if (answer.is_building) later = setTimeout(look, 500);
        },
        (error) => error.name !== "AbortError" && set({ found: [], for: typed, error, isBuilding: false }),
      );
    later = setTimeout(look, 60);
    return () => {
      stop.abort();
      clearTimeout(later);
    };
  }, [typed]);
  const choose = (track) => {
    setTyped("");
    setOpen(false);
    set({ found: [], for: "", error: null, isBuilding: false });
    onChoose(track);
  };
  const isShown = isOpen && typed.trim() !== "";
  const keys = (event) => {
    const last = state.found.length - 1;
    if (event.key === "ArrowDown") setActive(Math.min(last, active + 1));
    else if (event.key === "ArrowUp") setActive(Math.max(0, active - 1));
    else if (event.key === "Enter" && isShown && state.found[active]) choose(state.found[active]);
    else if (event.key === "Escape") isShown ? setOpen(false) : setTyped("");
    else return;
    event.preventDefault();
  };
  useEffect(() => {
    document.getElementById(`${id}-${active}`)?.scrollIntoView({ block: "nearest" });
  }, [active]);
  const isWaiting = isShown && state.for !== typed;
  return html`
    <div class="search">
      <input ref=${field} type="text" inputmode="search" autocomplete="off" spellcheck=${false} class="search-field"
        placeholder=${label} aria-label=${label} role="combobox" aria-expanded=${isShown ? "true" : "false"} aria-autocomplete="list"
        aria-controls=${`${id}-list`} aria-activedescendant=${isShown && state.found.length ? `${id}-${active}` : undefined}
        value=${typed} onInput=${(event) => (setTyped(event.currentTarget.value), setOpen(true))}
        onFocus=${() => setOpen(true)} onBlur=${() => setTimeout(() => setOpen(false), 150)} onKeyDown=${keys} />
      ${isShown && html`<div class="search-drop">
        <ul id=${`${id}-list`} role="listbox" aria-label="tracks">
          ${state.found.map(
            (track, place) => html`<li key=${track.track} id=${`${id}-${place}`} role="option" aria-selected=${place === active ? "true" : "false"}
              onMouseDown=${(event) => (event.preventDefault(), choose(track))} onMouseMove=${() => setActive(place)}>
              <span class="two"><b>${nameOf(track)}</b><span>${artistOf(track)}</span></span>
              <span class="faint">${plays(track, knowsPlays)}</span>
            </li>`,
          )}
        </ul>
        ${state.error
          ? html`<p class="search-said" role="alert">${state.error.message}</p>`
          : state.isBuilding
            ? html`<p class="search-said" role="status">The titles are being indexed …</p>`
            : !isWaiting && !state.found.length && html`<p class="search-said" role="status">Nothing like “${typed}”. Try a part of the title or the artist.</p>`}
      </div>`}
    </div>`;
}
