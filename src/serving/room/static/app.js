// The frame: navigation, theme, token, and the view that the address names.
import { render } from "/room/vendor/preact.mjs";
import { Bones, Icon, Trouble, addressOf, html, readAddress, setToken, labelOf, useAnswer, useEffect, useState } from "/room/parts.js";
import { Compare } from "/room/compare.js";

const later = (path, name) => ({ path, name });
const VIEWS = {
  compare: { label: "Compare", view: Compare },
  walk: { label: "Walk", ...later("/room/walk.js", "Walk") },
  map: { label: "Map", ...later("/room/map.js", "TrackMap") },
  listener: { label: "Listener", isShown: (room) => room.players.some((one) => one.context === "listener"), ...later("/room/listener.js", "Listener") },
  experiment: { label: "Experiment", ...later("/room/experiment.js", "Experiment") },
  runs: { label: "Runs", ...later("/room/runs.js", "Runs") },
};

function Theme() {
  const isDark = () =>
    (document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const [dark, set] = useState(isDark);
  const toggle = () => {
    const next = dark ? "light" : "dark";
    document.documentElement.dataset.theme = next;
    localStorage.setItem("segue-theme", next);
    set(!dark);
    window.dispatchEvent(new Event("segue-theme"));
  };
  return html`<button class="icon-button" onClick=${toggle} aria-label=${dark ? "light theme" : "dark theme"} title=${dark ? "Light" : "Dark"}><${Icon} name=${dark ? "sun" : "moon"} /></button>`;
}

function TokenForm({ onDone }) {
  const [typed, setTyped] = useState("");
  const submit = (event) => {
    event.preventDefault();
    setToken(typed);
    onDone();
  };
  return html`<section class="view"><form class="notice token" onSubmit=${submit}>
    <h1>This service requires a token</h1>
    <p>It is the value of <code>SEGUE_TOKEN</code> with which the service was started. This tab keeps it until you close it.</p>
    <label>Token <input type="password" autocomplete="off" value=${typed} onInput=${(event) => setTyped(event.currentTarget.value)} /></label>
    <button class="button button-main" disabled=${!typed}>Open the room</button>
  </form></section>`;
}

function App() {
  const [address, setAddress] = useState(readAddress);
  const [needsToken, setNeedsToken] = useState(false);
  const [again, setAgain] = useState(0);
  const [loaded, setLoaded] = useState({});
  const { answer: room, error } = useAnswer("state", {}, { again });
  useEffect(() => {
    const read = () => setAddress(readAddress());
    const ask = () => setNeedsToken(true);
    window.addEventListener("hashchange", read);
    window.addEventListener("popstate", read);
    window.addEventListener("segue-address", read);
    window.addEventListener("segue-token", ask);
  }, []);
  const name = VIEWS[address.view] ? address.view : "compare";
  const View = VIEWS[name].view ?? loaded[name];
  useEffect(() => {
    document.title = `${VIEWS[name].label} · Listening room`;
    if (View) return;
    import(VIEWS[name].path).then((module) => setLoaded((before) => ({ ...before, [name]: module[VIEWS[name].name] })));
  }, [name, View]);
  return html`
    <a class="skip" href="#main" onClick=${(event) => (event.preventDefault(), document.getElementById("main").focus())}>To the content</a>
    <header class="top">
      <a class="brand" href="#/compare"><img src="/room/icon.svg" alt="" width="24" height="24" /> <span>Listening room</span></a>
      <nav aria-label="Views">
        ${Object.entries(VIEWS).filter(([, { isShown }]) => !isShown || (room && isShown(room))).map(([key, { label }]) => html`<a key=${key} href=${addressOf(key)} aria-current=${key === name ? "page" : undefined}>${label}</a>`)}
      </nav>
      <span class="top-right">
        ${room && html`<span class="faint version" title=${`release ${room.version}`}>${room.experiment} · ${room.players.filter((p) => p.is_arm).map((p) => `${p.key} ${labelOf(p)}`).join(", ")}</span>`}
        <${Theme} />
      </span>
    </header>
    <main id="main" tabindex="-1">
      ${room && room.problems.map((one) => html`<p key=${one} class="said said-error" role="status">${one}</p>`)}
      ${needsToken
        ? html`<${TokenForm} onDone=${() => (setNeedsToken(false), setAgain(again + 1))} />`
        : room && View
          ? html`<${View} key=${name} given=${address.given} room=${room} onRefresh=${() => setAgain(again + 1)} />`
          : error
            ? html`<section class="view"><${Trouble} error=${error} onAgain=${() => setAgain(again + 1)} /></section>`
            : html`<section class="view"><${Bones} lines=${10} /></section>`}
    </main>`;
}

const root = document.getElementById("app");
root.replaceChildren();
render(html`<${App} />`, root);
