// Listener: what the service remembers of a listener, and why their last answer was chosen.
import { Bars, Listen, Notice, Table, Trouble, addressOf, artistOf, goTo, html, nameOf, request, useEffect, useState } from "/room/parts.js";

const MOST = 50;
const shown = (parts) => Object.fromEntries(Object.entries(parts).filter(([, value]) => Math.abs(value) >= 0.005));
const ago = (days) => (days < 1 / 24 ? "less than an hour ago" : days < 1 ? `${(24 * days).toFixed(0)} h ago` : `${days.toFixed(0)} d ago`);

export function Listener({ given }) {
  const [typed, setTyped] = useState(given.u ?? "");
  const [found, set] = useState({});
  useEffect(() => {
    if (!given.u) return undefined;
    const stop = new AbortController();
    const read = async (page) => (await request(`/${page}/${encodeURIComponent(given.u)}`, { signal: stop.signal })).json();
    set({});
    read("profile").then(
      async (profile) => set({ profile, last: await read("explain").catch(() => null) }), // without a session nothing is explained
      (error) => error.name !== "AbortError" && set({ error }),
    );
    return () => stop.abort();
  }, [given.u]);
  const { profile, last, error } = found;
  const submit = (event) => (event.preventDefault(), typed && goTo("listener", { u: typed }));
  return html`<section class="view view-narrow">
    ${given.u ? html`<h1 class="hidden">Listener</h1>` : html`<div class="hero hero-small"><h1>Who is listening</h1>
      <p>What the service remembers of a listener over all sessions, and why their last answer was chosen.</p></div>`}
    <form class="token of-listener" onSubmit=${submit}>
      <label>Id of the listener <input type="text" autocomplete="off" spellcheck=${false} value=${typed} onInput=${(event) => setTyped(event.currentTarget.value)} /></label>
      <button class="button button-main">Show</button>
    </form>
    ${error && (error.status === 404
      ? html`<${Notice} title="No profile">The service remembers nothing of listener ${given.u}: they are new, have not consented, or were removed.<//>`
      : html`<${Trouble} error=${error} />`)}
    ${last && html`<section><h2>The last answer</h2>
      <p><b>${nameOf(last.recommended)} <${Listen} track=${last.recommended} /></b> · ${artistOf(last.recommended)}</p>
      <p class="why">${last.listener ? `Own past: ${last.listener.sentence}` : "It was chosen from the session alone."}</p>
      ${last.listener && html`<${Bars} parts=${shown(last.parts)} />`}</section>`}
    ${profile && html`<section><h2>${profile.tracks.length === 1 ? "One track" : `${profile.tracks.length} tracks`}</h2>
      <${Table} label="Tracks of the profile, those played last first" columns=${[
        { name: "track" }, { name: "artist" },
        { name: "plays", isNumber: true, title: "a play counts half after 30 days" },
        { name: "played", isNumber: true, title: "mean share that was played" },
        { name: "last", isNumber: true },
      ]} lines=${profile.tracks.slice(0, MOST).map((track, place) => ({ key: place, cells: [
        html`${track.track === null ? "of an earlier release" : html`<a href=${addressOf("compare", { t: track.track })}>${nameOf(track)}</a>`}${track.is_known && html`<span class="faint"> · known</span>`}`,
        artistOf(track), track.plays.toFixed(1), `${(100 * track.time).toFixed(0)} %`, ago(track.last_days),
      ] }))} />
      ${profile.tracks.length > MOST && html`<p class="faint">The ${MOST} that were played last.</p>`}
      <p class="faint">To remove this listener from profiles, sessions and event logs: <code>python serve.py forget listener=${given.u} store.folder=…/store</code></p></section>`}
  </section>`;
}
