// Walk: an arm plays on; play or skip each track.
import { Bars, Icon, Listen, Notice, Search, Trouble, addressOf, artistOf, ask, colourOf, goTo, html, nameOf, plays, request, labelOf, useAnswer, useEffect, useRef, useState } from "/room/parts.js";
import { describe } from "/room/compare.js";

const STEPS = 10;
const SHARES = { play: 1, skip: 0.1 };

export function Walk({ given, room }) {
  const arms = room.players.filter((player) => player.is_arm);
  const keys = room.players.map((player) => player.key);
  const arm = arms.some((one) => one.key === given.arm) ? given.arm : arms.at(-1).key;
  const player = arms.find((one) => one.key === arm);
  const isLogged = given.log === "1";
  const knowsListeners = player.context === "listener" && !isLogged;
  const familiar = Number(given.f ?? player.familiar ?? 1);
  const [steps, setSteps] = useState([]); // the first is the track that was chosen; each has a share once it has ended
  const [isBusy, setBusy] = useState(false);
  const [error, setError] = useState(null);
  const [user, setUser] = useState(null);
  const walk = useRef(0);
  const { answer, error: missing } = useAnswer("compare", { track: given.t, players: "", num: 1 }, { isOff: !given.t });
  const start = answer && String(answer.track.track) === String(given.t) ? answer.track : null;
  const begin = () => {
    walk.current += 1;
    setSteps(start ? [{ ...start, share: null }] : []);
    setError(null);
    setUser(null);
    setBusy(false);
  };
  useEffect(begin, [start?.track, arm, isLogged, given.u, given.f]);

  const advance = async (before, share, listener) => {
    const heard = [...before.slice(0, -1), { ...before.at(-1), share }];
    const tracks = heard.map((step) => step.track);
    const shares = heard.map((step) => step.share);
    let next;
    if (isLogged) {
      const answered = await request(`/next/${listener}`, { method: "POST", body: { track: tracks.at(-1), time: share } });
      const { track } = await answered.json();
      next = await ask("why", { method: "POST", body: { arm, tracks, shares, track } });
    } else next = await ask("step", { method: "POST", body: { arm, tracks, shares, ...(knowsListeners && { familiar, ...(given.u && { user: given.u }) }) } });
    return [...heard, { ...next, share: null }];
  };
  const go = async (share, num) => {
    const own = walk.current;
    setBusy(true);
    setError(null);
    try {
      let listener = user;
      if (isLogged && listener === null) {
        listener = (await ask("listener", { query: { arm } })).user;
        if (walk.current !== own) return;
        setUser(listener);
      }
      let now = steps;
      for (let step = 0; step < num && now.length <= STEPS; step += 1) {
        now = await advance(now, share, listener);
        if (walk.current !== own) return;
        setSteps(now);
      }
    } catch (trouble) {
      if (walk.current === own) setError(trouble);
    }
    if (walk.current === own) setBusy(false);
  };
  const stop = async () => {
    if (user !== null) await request(`/last/${user}`, { method: "POST", body: { track: steps.at(-1).track, time: SHARES.play } }).catch(setError);
    begin();
  };
  const change = (changes) => goTo("walk", { ...given, ...changes });
  const known = steps.filter((step) => step.is_known).length;
  const search = html`<${Search} label="Start from a track" knowsPlays=${room.knows_plays} autofocus=${!given.t} onChoose=${(track) => change({ t: track.track })} />`;
  const isDone = steps.length > STEPS;
  return html`<section class="view view-narrow">
    ${given.t ? html`<h1 class="hidden">Walk</h1>` : html`<div class="hero hero-small"><h1>Let it play on</h1>
      <p>Start from a track. The arm chooses the next ones with its own rules and the session so far. Play or skip each, or let it play ten.</p></div>`}
    <div class="toolbar">${search}
      <div class="chips" role="radiogroup" aria-label="Arm">
        ${arms.map((one) => html`<button key=${one.key} role="radio" aria-checked=${one.key === arm ? "true" : "false"} class=${`chip ${colourOf(keys, one.key)}`}
          onClick=${() => change({ arm: one.key })}><i class="dot"></i>${one.key} ${labelOf(one)}</button>`)}
      </div>
    </div>
    ${!given.t
      ? html`<ul class="examples" aria-label="Examples">${room.examples.map((track) => html`<li key=${track.track}><a class="chip" href=${addressOf("walk", { ...given, t: track.track })}><b>${nameOf(track)}</b> ${artistOf(track)}</a></li>`)}</ul>`
      : missing
        ? html`<${Trouble} error=${missing} />`
        : html`
      <div class="walk-rules">
        <p><b>${arm}</b> ${describe(player)}</p>
        <label class="check"><input type="checkbox" checked=${isLogged} onChange=${(event) => change({ log: event.currentTarget.checked ? "1" : "" })} />
          <span>Be a listener: send each step to <code>/next</code> and write it to the event log</span></label>
        ${user && html`<p class="faint">You are listener ${user} of arm ${arm}.</p>`}
        ${knowsListeners && html`<div class="walk-listener">
          <label>As listener <input type="text" autocomplete="off" spellcheck=${false} placeholder="somebody new" value=${given.u ?? ""} onChange=${(event) => change({ u: event.currentTarget.value })} /></label>
          <label class="alpha"><span>At most</span>
            <input type="range" min="0" max="1" step="0.05" value=${familiar} aria-label="How much may be familiar" onChange=${(event) => change({ f: event.currentTarget.value })} />
            <output class=${given.f === undefined ? "" : "is-changed"}>${(100 * familiar).toFixed(0)} % familiar</output></label>
          ${steps.length > 1 && html`<p class="faint" role="status">${known} of ${steps.length - 1} ${steps.length === 2 ? "track was" : "tracks were"} known before.</p>`}
        </div>`}
      </div>
      <ol class=${`walk ${colourOf(keys, arm)}`} aria-live="polite">
        ${steps.map((step, place) => html`<li key=${place} class=${`walk-step ${step.share === null ? "is-now" : step.share < 0.5 ? "is-skipped" : "is-played"}`}>
          <span class="walk-place" aria-hidden="true">${place === 0 ? html`<${Icon} name="play" />` : place}</span>
          <div class="walk-body">
            <div class="two"><b>${nameOf(step)} <${Listen} key=${step.track} track=${step} /></b><span>${artistOf(step)}${plays(step, room.knows_plays) ? ` · ${plays(step, room.knows_plays)}` : ""}</span></div>
            ${place === 0 ? html`<p class="why">Your choice.</p>` : html`<p class="why">${step.sentence}${step.is_known && html` <span class="faint">Known.</span>`}</p>
              ${step.own_past && html`<p class="why">Own past: ${step.own_past}</p>`}
              ${step.counted && html`<p class="why">Counted: ${step.counted}</p>`}
              <details class="more"><summary>Why this one?</summary>
                <p class="faint">${step.parts_are === "sums" ? "What each part adds to its score, over the session:" : `Cosines with the track before:`}</p>
                ${step.parts ? html`<${Bars} parts=${step.parts} />` : html`<p>No vectors are known of this recommender.</p>`}
                ${step.session.length > 0 && html`<p class="faint">The tracks of the session that count most:</p><ul class="pulls">
                  ${step.session.map((one) => html`<li key=${one.track}><span>${nameOf(one)}</span> <span class="score">${one.pull >= 0 ? "+" : ""}${one.pull.toFixed(3)}</span></li>`)}</ul>`}
                ${step.propensity !== null && html`<p class="faint">Probability of this choice: ${step.propensity >= 0.001 ? step.propensity.toPrecision(3) : step.propensity.toExponential(1)}</p>`}
              </details>`}
          </div>
          <span class="walk-do">${step.share === null
            ? !isDone && html`<button class="button" disabled=${isBusy} onClick=${() => go(SHARES.play, 1)}><${Icon} name="play" /> Play</button>
                <button class="button" disabled=${isBusy} onClick=${() => go(SHARES.skip, 1)}><${Icon} name="skip" /> Skip</button>`
            : html`<span class="faint">${step.share < 0.5 ? "skipped" : "played"}</span>`}</span>
        </li>`)}
      </ol>
      ${error && html`<${Trouble} error=${error} />`}
      <div class="walk-foot">
        ${steps.length > 0 && !isDone && html`<button class="button button-main" disabled=${isBusy} onClick=${() => go(SHARES.play, STEPS)}>${isBusy ? "Playing …" : `Play on, to ${STEPS} tracks`}</button>`}
        ${steps.length > 1 && html`<button class="button" onClick=${stop}>${user ? "End the session" : "Start again"}</button>`}
        ${isDone && html`<p role="status">Ten tracks. <a href=${addressOf("walk", { ...given, t: steps.at(-1).track })}>Walk on from here</a></p>`}
      </div>`}
  </section>`;
}
