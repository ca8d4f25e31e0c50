// Compare: what up to four recommenders would play after a track.
import { Bars, Bones, Icon, Listen, Notice, Search, Trouble, addressOf, artistOf, colourOf, count, goTo, html, nameOf, plays, labelOf, useAnswer, useState } from "/room/parts.js";

const MOST = 4;

const alphasOf = (text = "") => Object.fromEntries(text.split(",").filter(Boolean).map((one) => one.split(":")).map(([key, value]) => [key, Number(value)]));
const textOf = (alphas) => Object.entries(alphas).map(([key, value]) => `${key}:${value}`).join(",");

export const describe = (player) => {
  if (player.policy === "random") return "any track, by chance";
  if (player.policy === "popular") return "the most played tracks, by chance";
  if (player.policy === "sticky_artist") return "the artist again, by chance";
  if (!player.is_arm) return "beside the arms";
  const words = [`pick ${player.pick}`];
  if (player.context === "session") words.push("session as the query");
  if (player.context === "listener") words.push("session and own past as the query");
  if (player.artist_gap) words.push(`artist gap ${player.artist_gap}`);
  if (player.familiar < 1) words.push(`about ${(100 * player.familiar).toFixed(0)} % familiar`);
  return words.join(" · ");
};

export function Compare({ given, room }) {
  const keys = room.players.map((player) => player.key);
  const chosen = (given.p ? given.p.split(",") : keys).filter((key) => keys.includes(key)).slice(0, MOST);
  const alphas = alphasOf(given.a);
  const [pointed, setPointed] = useState(null);
  const [again, setAgain] = useState(0);
  const { answer, error, isWaiting } = useAnswer(
    "compare", { track: given.t, players: chosen.join(","), alpha: given.a ?? "", num: 15 }, { isOff: !given.t || !chosen.length, again },
  );
  const change = (changes, how) => goTo("compare", { ...given, ...changes }, how);
  const toggle = (key) => {
    const next = chosen.includes(key) ? chosen.filter((one) => one !== key) : [...chosen, key];
    change({ p: keys.filter((one) => next.includes(one)).join(",") });
  };
  const setAlpha = (key, value) => {
    const next = { ...alphas };
    if (value === null) delete next[key];
    else next[key] = value;
    change({ a: textOf(next) }, { isReplaced: true });
  };
  const search = html`<${Search} label="Search a track or an artist" knowsPlays=${room.knows_plays} autofocus=${!given.t}
    onChoose=${(track) => change({ t: track.track })} />`;
  if (!given.t)
    return html`<section class="view">
      <div class="hero">
        <h1>What would they play next?</h1>
        <p>Choose a track. You see what each recommender of this service would play after it, side by side.</p>
        ${search}
        <ul class="examples" aria-label="Examples">
          ${room.examples.map((track) => html`<li key=${track.track}><a class="chip" href=${addressOf("compare", { ...given, t: track.track })}>
            <b>${nameOf(track)}</b> ${artistOf(track)}</a></li>`)}
        </ul>
      </div>
    </section>`;
  if (error && error.status === 404)
    return html`<section class="view">${search}<${Trouble} error=${error} /></section>`;
  const isOther = answer && String(answer.track.track) !== String(given.t);
  const columns = answer && !isOther ? answer.columns.filter((column) => chosen.includes(column.key)) : [];
  const places = new Map();
  for (const column of columns) for (const item of column.items) places.set(item.track, (places.get(item.track) ?? 0) + 1);
  const filled = columns.filter((column) => column.items.length).length;
  const numAll = filled > 1 ? [...places.values()].filter((num) => num === filled).length : 0;
  const numOnly = [...places.values()].filter((num) => num === 1).length;
  const track = answer && !isOther ? answer.track : null;
  return html`<section class="view">
    <div class="toolbar">${search}
      <div class="chips" role="group" aria-label="Recommenders">
        ${room.players.map((player) => {
          const isOn = chosen.includes(player.key);
          return html`<button key=${player.key} class=${`chip ${colourOf(keys, player.key)}`} aria-pressed=${isOn ? "true" : "false"}
            disabled=${!isOn && chosen.length >= MOST} onClick=${() => toggle(player.key)}><i class="dot"></i>${player.key} ${labelOf(player)}</button>`;
        })}
      </div>
    </div>
    <header class="subject">
      <div><p class="faint">After</p>
        <h1>${track ? nameOf(track) : " "}</h1>
        <p>${track ? artistOf(track) : " "}${track && plays(track, room.knows_plays) ? ` · ${plays(track, room.knows_plays)} in training` : ""} ${track && html`<${Listen} key=${track.track} track=${track} />`}</p></div>
      <div class="subject-links">
        <a class="button" href=${addressOf("walk", { t: given.t })}>Walk from here</a>
        <a class="button" href=${addressOf("map", { t: given.t })}>On the map</a>
      </div>
    </header>
    <p class="legend">${filled > 1
      ? html`<span><i class="mark mark-all"><${Icon} name="star" /></i> in all ${filled} lists: ${numAll}</span>
             <span><i class="mark mark-only"><${Icon} name="diamond" /></i> only in one: ${numOnly}</span>`
      : html`<span>Choose a second recommender to see where they agree.</span>`}
      ${Object.keys(alphas).length > 0 && html`<button class="link" onClick=${() => change({ a: "" })}>Back to the trained α</button>`}</p>
    ${error && html`<${Trouble} error=${error} onAgain=${() => setAgain(again + 1)} />`}
    ${!chosen.length && html`<${Notice} title="No recommender is chosen">Choose one above.<//>`}
    <div class=${`columns columns-${chosen.length}${isWaiting && columns.length ? " is-waiting" : ""}`}>
      ${chosen.map((key) => {
        const player = room.players.find((one) => one.key === key);
        const column = columns.find((one) => one.key === key);
        return html`<article key=${key} class=${`card column ${colourOf(keys, key)}`} aria-label=${`${key} ${player.recommender}`}>
          <header class="column-head">
            <h2><i class="dot"></i>${key} <span>${labelOf(player)}</span></h2>
            <p class="faint" title=${describe(player)}>${describe(player)}</p>
            <${Alpha} player=${player} value=${alphas[key]} onChange=${(value) => setAlpha(key, value)} />
          </header>
          ${!column
            ? !error && html`<${Bones} lines=${12} />`
            : column.items.length
              ? html`<ol class="tracks">
                  ${column.items.map((item) => {
                    const num = places.get(item.track);
                    const mark = filled < 2 ? "" : num === filled ? "all" : num === 1 ? "only" : "";
                    return html`<li key=${item.track} class=${`${pointed === item.track ? "is-pointed" : ""} ${mark ? `is-${mark}` : ""}`}
                      onMouseEnter=${() => setPointed(item.track)} onMouseLeave=${() => setPointed(null)}>
                      <a href=${addressOf("compare", { ...given, t: item.track })} class="two" title="Compare from this track">
                        <b>${nameOf(item)}</b><span>${artistOf(item)}</span></a>
                      <span class="badges"><${Listen} track=${item} />${mark === "all" && html`<i class="mark mark-all" role="img" aria-label="in all lists" title="in all lists"><${Icon} name="star" /></i>`}
                        ${mark === "only" && html`<i class="mark mark-only" role="img" aria-label="only here" title="only here"><${Icon} name="diamond" /></i>`}
                        <span class="score">${item.score === null ? "" : item.score.toFixed(3)}</span>
                        ${room.knows_plays && html`<span class="faint">${plays(item, true)}</span>`}</span>
                      <span class="details"><${Bars} parts=${item.parts} /></span>
                    </li>`;
                  })}
                </ol>`
              : html`<p class="column-empty">${player.problem || (player.policy === "random" ? `Any of ${count(room.tracks)} tracks, each with the same probability.` : "Nothing follows this track: its list is empty, and the service uses a fallback.")}</p>`}
          ${column && player.problem && column.items.length > 0 && html`<p class="column-note faint">${player.problem}</p>`}
        </article>`;
      })}
    </div>
  </section>`;
}

function Alpha({ player, value, onChange }) {
  if (player.alpha === null) return html`<p class="alpha alpha-none faint">${player.policy === "lists" ? "no α to vary" : " "}</p>`;
  const shown = value ?? player.alpha;
  return html`<label class="alpha">
    <span class="faint">artist</span>
    <input type="range" min="0" max="1" step="0.01" value=${shown} aria-label=${`alpha of ${player.key}, the share of the track cosine`}
      onInput=${(event) => onChange(Number(event.currentTarget.value))} />
    <span class="faint">track</span>
    <output class=${value === undefined ? "" : "is-changed"}>α ${shown.toFixed(2)}</output>
  </label>`;
}
