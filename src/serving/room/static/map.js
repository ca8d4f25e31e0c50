// Map: every track as a point, drawn with WebGL; click to compare, lasso to list.
import { Bones, Notice, Trouble, addressOf, artistOf, ask, count, goTo, html, nameOf, plays, request, labelOf, useEffect, useRef, useState } from "/room/parts.js";

const VERTEX = `
attribute vec2 place; attribute float value;
uniform vec2 scale; uniform vec2 offset; uniform float size;
varying float shade;
void main() { gl_Position = vec4(place * scale + offset, 0.0, 1.0); gl_PointSize = size * (0.7 + 0.8 * value); shade = value; }`;
const FRAGMENT = `
precision mediump float;
uniform vec3 low; uniform vec3 middle; uniform vec3 high;
varying float shade;
void main() {
  vec2 from = gl_PointCoord - 0.5;
  float near = 1.0 - smoothstep(0.30, 0.5, length(from));
  if (near < 0.02) discard;
  vec3 colour = shade < 0.5 ? mix(low, middle, shade * 2.0) : mix(middle, high, shade * 2.0 - 1.0);
  gl_FragColor = vec4(colour, near * (0.7 + 0.3 * shade));
}`;

const inkOf = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const rgb = (text) => [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16) / 255);

// The points on a canvas: draw() at a view {x, y, zoom}, in which the middle of the canvas shows the place x, y.
function makeCloud(canvas, places) {
  const gl = canvas.getContext("webgl", { antialias: false, alpha: true, premultipliedAlpha: false });
  if (!gl) return null;
  const compile = (kind, text) => {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, text);
    gl.compileShader(shader);
    if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
    return shader;
  };
  const program = gl.createProgram();
  gl.attachShader(program, compile(gl.VERTEX_SHADER, VERTEX));
  gl.attachShader(program, compile(gl.FRAGMENT_SHADER, FRAGMENT));
  gl.linkProgram(program);
  gl.useProgram(program);
  const bind = (name, width, data) => {
    const buffer = gl.createBuffer();
    const at = gl.getAttribLocation(program, name);
    gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
    gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
    gl.enableVertexAttribArray(at);
    gl.vertexAttribPointer(at, width, gl.FLOAT, false, 0, 0);
    return buffer;
  };
  const num = places.length / 2;
  bind("place", 2, places);
  const values = bind("value", 1, new Float32Array(num));
  const uniform = (name) => gl.getUniformLocation(program, name);
  const [scale, offset, size, low, middle, high] = ["scale", "offset", "size", "low", "middle", "high"].map(uniform);
  gl.enable(gl.BLEND);
  gl.blendFuncSeparate(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA, gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  const named = gl.getExtension("WEBGL_debug_renderer_info");
  return {
    renderer: named ? gl.getParameter(named.UNMASKED_RENDERER_WEBGL) : gl.getParameter(gl.RENDERER),
    setValues(given) {
      gl.bindBuffer(gl.ARRAY_BUFFER, values);
      gl.bufferData(gl.ARRAY_BUFFER, given, gl.STATIC_DRAW);
    },
    draw(view) {
      const { width, height } = canvas;
      const [sx, sy] = scaleOf(view, width, height);
      gl.viewport(0, 0, width, height);
      gl.clearColor(0, 0, 0, 0);
      gl.clear(gl.COLOR_BUFFER_BIT);
      gl.uniform2f(scale, sx, sy);
      gl.uniform2f(offset, -view.x * sx, -view.y * sy);
      const base = (Math.min(width, height) / 260) * Math.sqrt(5000 / Math.max(500, num));
      gl.uniform1f(size, Math.max(2.5, Math.min(24, base * Math.sqrt(view.zoom) * 2)) * (window.devicePixelRatio || 1) ** 0.5);
      gl.uniform3fv(low, rgb(inkOf("--ramp-low")));
      gl.uniform3fv(middle, rgb(inkOf("--ramp-middle")));
      gl.uniform3fv(high, rgb(inkOf("--ramp-high")));
      gl.drawArrays(gl.POINTS, 0, num);
    },
    finish: () => gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4)),
    end: () => gl.getExtension("WEBGL_lose_context")?.loseContext(),
  };
}

const scaleOf = (view, width, height) => {
  const side = Math.min(width, height);
  return [(0.95 * view.zoom * side) / width, (0.95 * view.zoom * side) / height];
};

// A grid over the square, to find the nearest point fast.
function makeGrid(places, cells = 96) {
  const lists = new Map();
  const cell = (value) => Math.max(0, Math.min(cells - 1, Math.floor(((value + 1) / 2) * cells)));
  for (let row = 0; row < places.length / 2; row += 1) {
    const key = cell(places[2 * row]) * cells + cell(places[2 * row + 1]);
    if (!lists.has(key)) lists.set(key, []);
    lists.get(key).push(row);
  }
  return (x, y, reach) => {
    let best = -1;
    let least = reach * reach;
    for (let i = cell(x - reach); i <= cell(x + reach); i += 1)
      for (let j = cell(y - reach); j <= cell(y + reach); j += 1)
        for (const row of lists.get(i * cells + j) ?? []) {
          const far = (places[2 * row] - x) ** 2 + (places[2 * row + 1] - y) ** 2;
          if (far < least) [best, least] = [row, far];
        }
    return best;
  };
}

// Artists as points: each in the middle of its tracks, with the largest of their values, for its most played track.
function artistsOf({ places, values }, owners) {
  const num = owners.reduce((most, one) => Math.max(most, one), -1) + 1;
  const [sums, counts] = [new Float32Array(2 * num), new Uint32Array(num)];
  const [rows, pointOf] = [new Uint32Array(num), Uint32Array.from(owners)];
  const most = values.map(() => new Float32Array(num));
  pointOf.forEach((artist, row) => {
    if (!counts[artist] || values[0][row] > values[0][rows[artist]]) rows[artist] = row;
    counts[artist] += 1;
    sums[2 * artist] += places[2 * row];
    sums[2 * artist + 1] += places[2 * row + 1];
    values.forEach((value, at) => (most[at][artist] = Math.max(most[at][artist], value[row])));
  });
  return { places: sums.map((sum, at) => sum / counts[at >> 1]), values: most, rows, pointOf };
}

export const isInside = (x, y, loop) => {
  let inside = false;
  for (let i = 0, j = loop.length - 1; i < loop.length; j = i, i += 1) {
    const [[xi, yi], [xj, yj]] = [loop[i], loop[j]];
    if (yi > y !== yj > y && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) inside = !inside;
  }
  return inside;
};

export function TrackMap({ given, room }) {
  const [cloudData, setData] = useState(null);
  const [error, setError] = useState(null);
  const [again, setAgain] = useState(0);
  const withLists = room.players.filter((player) => player.has_lists);
  const colours = [["popularity", "popularity: the place by plays"], ...(room.knows_plays ? [["plays", "plays in training, on a logarithmic scale"]] : []), ...withLists.map((player) => [`in lists of ${player.key}`, `how often ${player.key} ${labelOf(player)} recommends it`])];
  useEffect(() => {
    const stop = new AbortController();
    setError(null);
    request("/room/api/map", { signal: stop.signal })
      .then((response) => response.arrayBuffer())
      .then((bytes) => {
        const all = new Float32Array(bytes);
        const num = room.tracks;
        const places = new Float32Array(2 * num);
        for (let row = 0; row < num; row += 1) [places[2 * row], places[2 * row + 1]] = [all[row], all[num + row]];
        const values = [];
        for (let at = 3; (at + 1) * num <= all.length; at += 1) values.push(all.slice(at * num, (at + 1) * num));
        const tracks = { places, values, rows: Uint32Array.from(places.subarray(0, num), (_, row) => row) };
        tracks.pointOf = tracks.rows;
        setData({ tracks, artists: artistsOf(tracks, all.subarray(2 * num, 3 * num)) });
      })
      .catch((trouble) => trouble.name !== "AbortError" && setError(trouble));
    return () => stop.abort();
  }, [again]);
  if (error)
    return html`<section class="view">${error.status === 404
      ? html`<${Notice} title="There is no map of this service">${error.message}<//>`
      : html`<${Trouble} error=${error} onAgain=${() => setAgain(again + 1)} />`}</section>`;
  if (!cloudData) return html`<section class="view"><p class="faint" role="status">Drawing a map of ${count(room.tracks)} tracks. The first time takes some seconds.</p><${Bones} lines=${10} /></section>`;
  const kind = given.of === "artists" ? "artists" : "tracks";
  return html`<${Drawn} key=${kind} kind=${kind} data=${cloudData[kind]} room=${room} given=${given} colours=${colours} />`;
}

function Drawn({ kind, data, room, given, colours }) {
  const canvas = useRef(null);
  const box = useRef(null);
  const live = useRef({ view: { x: 0, y: 0, zoom: 1 }, cloud: null, grid: null, asked: false, loop: null, held: null });
  const [colour, setColour] = useState(0);
  const [isLasso, setLasso] = useState(false);
  const [hover, setHover] = useState(null);
  const [loop, setLoop] = useState(null);
  const [list, setList] = useState(null);
  const [rate, setRate] = useState(null);
  const [problem, setProblem] = useState("");
  const [here, setHere] = useState(null);
  const { places, values, rows, pointOf } = data; // the row of the track that each point stands for, and the point of each track
  const titleOf = (track) => (kind === "artists" ? artistOf(track) : nameOf(track));
  const moreOf = (track) => (kind === "artists" ? `most played: ${nameOf(track)}` : artistOf(track));

  const redraw = () => {
    const now = live.current;
    if (now.asked) return;
    now.asked = true;
    requestAnimationFrame(() => {
      now.asked = false;
      now.cloud?.draw(now.view);
      setHere((before) => (now.mine === undefined ? before : toPixels(places[2 * now.mine], places[2 * now.mine + 1])));
    });
  };
  const toPlace = (px, py) => {
    if (!canvas.current) return [0, 0]; // another view is open
    const { clientWidth: width, clientHeight: height } = canvas.current;
    const [sx, sy] = scaleOf(live.current.view, width, height);
    return [((2 * px) / width - 1) / sx + live.current.view.x, (1 - (2 * py) / height) / sy + live.current.view.y];
  };
  const toPixels = (x, y) => {
    if (!canvas.current) return null;
    const { clientWidth: width, clientHeight: height } = canvas.current;
    const [sx, sy] = scaleOf(live.current.view, width, height);
    return [(((x - live.current.view.x) * sx + 1) * width) / 2, ((1 - (y - live.current.view.y) * sy) * height) / 2];
  };
  useEffect(() => {
    const now = live.current;
    let cloud;
    try {
      cloud = makeCloud(canvas.current, places);
    } catch (trouble) {
      setProblem(trouble.message);
      return undefined;
    }
    if (!cloud) {
      setProblem("This browser has no WebGL, which the map needs.");
      return undefined;
    }
    now.cloud = cloud;
    now.grid = makeGrid(places);
    const element = canvas.current;
    const fit = new ResizeObserver(() => {
      const ratio = window.devicePixelRatio || 1;
      element.width = Math.round(element.clientWidth * ratio);
      element.height = Math.round(element.clientHeight * ratio);
      redraw();
    });
    fit.observe(element);
    window.addEventListener("segue-theme", redraw);
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    scheme.addEventListener("change", redraw);
    return () => {
      fit.disconnect();
      now.cloud = null;
      window.removeEventListener("segue-theme", redraw);
      scheme.removeEventListener("change", redraw);
      cloud.end();
    };
  }, [places]);
  useEffect(() => {
    live.current.cloud?.setValues(values[colour] ?? values[0]);
    redraw();
  }, [colour, values]);
  useEffect(() => {
    if (!given.t) return;
    ask("row", { query: { track: given.t } }).then(({ row }) => {
      const mine = pointOf[row];
      live.current.mine = mine;
      live.current.view = { x: places[2 * mine], y: places[2 * mine + 1], zoom: 3 };
      redraw();
    }, () => {});
  }, [given.t]);
  const zoomAt = (px, py, factor) => {
    const now = live.current;
    const before = toPlace(px, py);
    now.view = { ...now.view, zoom: Math.max(0.7, Math.min(400, now.view.zoom * factor)) };
    const after = toPlace(px, py);
    now.view = { ...now.view, x: now.view.x + before[0] - after[0], y: now.view.y + before[1] - after[1] };
    redraw();
  };
  useEffect(() => {
    const wheel = (event) => {
      event.preventDefault();
      zoomAt(event.offsetX, event.offsetY, Math.exp(-event.deltaY / 400));
    };
    canvas.current?.addEventListener("wheel", wheel, { passive: false });
    return () => canvas.current?.removeEventListener("wheel", wheel);
  }, []);
  const at = (event) => {
    const frame = canvas.current.getBoundingClientRect();
    return [event.clientX - frame.left, event.clientY - frame.top];
  };
  const nearest = (px, py) => {
    const [x, y] = toPlace(px, py);
    const [x2] = toPlace(px + 14, py);
    return live.current.grid(x, y, Math.abs(x2 - x));
  };
  const fingers = useRef(new Map());
  const down = (event) => {
    canvas.current.setPointerCapture(event.pointerId);
    const [px, py] = at(event);
    fingers.current.set(event.pointerId, [px, py]);
    live.current.held = { from: [px, py], last: [px, py], moved: false };
    if (isLasso) setLoop([[px, py]]);
  };
  const move = (event) => {
    const [px, py] = at(event);
    const now = live.current;
    const held = now.held;
    if (!held) {
      const row = nearest(px, py);
      if (row !== hover?.row) {
        if (row < 0) setHover(null);
        else {
          setHover({ row, at: toPixels(places[2 * row], places[2 * row + 1]), track: null });
          ask("tracks", { method: "POST", body: [rows[row]] }).then(({ found }) => setHover((before) => (before?.row === row ? { ...before, track: found[0] } : before)), () => {});
        }
      }
      return;
    }
    if (Math.hypot(px - held.from[0], py - held.from[1]) > 4) held.moved = true;
    if (fingers.current.size === 2) {
      const other = [...fingers.current].find(([id]) => id !== event.pointerId)[1];
      const before = fingers.current.get(event.pointerId);
      const factor = Math.hypot(px - other[0], py - other[1]) / Math.max(1, Math.hypot(before[0] - other[0], before[1] - other[1]));
      fingers.current.set(event.pointerId, [px, py]);
      zoomAt((px + other[0]) / 2, (py + other[1]) / 2, factor);
    } else if (isLasso) setLoop((before) => [...(before ?? []), [px, py]]);
    else if (held.moved) {
      const [a, b] = [toPlace(...held.last), toPlace(px, py)];
      now.view = { ...now.view, x: now.view.x + a[0] - b[0], y: now.view.y + a[1] - b[1] };
      setHover(null);
      redraw();
    }
    held.last = [px, py];
  };
  const up = async (event) => {
    const [px, py] = at(event);
    const held = live.current.held;
    fingers.current.delete(event.pointerId);
    if (fingers.current.size) return;
    live.current.held = null;
    if (!held) return;
    if (isLasso && held.moved && loop) {
      const corners = loop.map(([x, y]) => toPlace(x, y));
      const inside = [];
      for (let row = 0; row < places.length / 2; row += 1) if (isInside(places[2 * row], places[2 * row + 1], corners)) inside.push(row);
      setLoop(null);
      await show(inside);
    } else if (!held.moved) {
      setLoop(null);
      const row = nearest(px, py);
      if (row >= 0) {
        const { found } = await ask("tracks", { method: "POST", body: [rows[row]] });
        goTo("compare", { t: found[0].track });
      }
    }
  };
  const show = async (points) => {
    const popular = values[0];
    const kept = [...points].sort((a, b) => popular[b] - popular[a]).slice(0, 200).map((point) => rows[point]);
    try {
      const { found } = await ask("tracks", { method: "POST", body: kept });
      setList({ num: points.length, found, error: null });
    } catch (trouble) {
      setList({ num: points.length, found: [], error: trouble });
    }
  };
  const keys = (event) => {
    const { clientWidth: width, clientHeight: height } = canvas.current;
    const now = live.current;
    const by = 0.15 / now.view.zoom;
    const moves = { ArrowLeft: [-by, 0], ArrowRight: [by, 0], ArrowUp: [0, by], ArrowDown: [0, -by] };
    if (moves[event.key]) now.view = { ...now.view, x: now.view.x + moves[event.key][0], y: now.view.y + moves[event.key][1] };
    else if (event.key === "+" || event.key === "=") return zoomAt(width / 2, height / 2, 1.3);
    else if (event.key === "-") return zoomAt(width / 2, height / 2, 1 / 1.3);
    else if (event.key === "0") now.view = { x: 0, y: 0, zoom: 1 };
    else if (event.key === "Enter") {
      const inView = [];
      for (let row = 0; row < places.length / 2; row += 1) {
        const spot = toPixels(places[2 * row], places[2 * row + 1]);
        if (spot[0] >= 0 && spot[0] <= width && spot[1] >= 0 && spot[1] <= height) inView.push(row);
      }
      show(inView);
    } else return undefined;
    event.preventDefault();
    return redraw();
  };
  const measure = () => {
    const now = live.current;
    const began = { ...now.view };
    const start = performance.now();
    let frames = 0;
    const turn = () => {
      now.view = { ...began, zoom: began.zoom * (1 + 0.1 * Math.sin(frames / 10)) };
      now.cloud.draw(now.view);
      now.cloud.finish();
      frames += 1;
      if (performance.now() - start < 1000) return requestAnimationFrame(turn);
      now.view = began;
      redraw();
      setRate(Math.round((1000 * frames) / (performance.now() - start)));
      return undefined;
    };
    requestAnimationFrame(turn);
  };
  if (problem) return html`<section class="view"><${Notice} title="The map cannot be drawn">${problem}<//></section>`;
  return html`<section class="view view-map">
    <div class="toolbar map-bar">
      <h1>Map <span class="faint">${count(rows.length)} ${kind === "artists" ? "artists, each in the middle of its tracks" : "tracks, near what follows them"}</span></h1>
      <span class="chips" role="group" aria-label="Points">${["tracks", "artists"].map((one) => html`<button key=${one} class="chip" aria-pressed=${one === kind ? "true" : "false"}
        onClick=${() => goTo("map", { ...given, of: one === "artists" ? one : "" })}>${one === "artists" ? "Artists" : "Tracks"}</button>`)}</span>
      <label>Colour <select value=${colour} onChange=${(event) => setColour(Number(event.currentTarget.value))}>
        ${colours.map(([name, title], place) => html`<option key=${name} value=${place} title=${title}>${name}</option>`)}</select></label>
      <span class="ramp" aria-hidden="true"><span>less</span><i></i><span>more</span></span>
      <button class="chip" aria-pressed=${isLasso ? "true" : "false"} onClick=${() => (setLasso(!isLasso), setHover(null))}>Lasso</button>
      <button class="chip" onClick=${() => ((live.current.view = { x: 0, y: 0, zoom: 1 }), redraw())}>Whole map</button>
    </div>
    <div class="map-body">
      <div class="map-box card" ref=${box}>
        <canvas ref=${canvas} tabindex="0" role="application" class=${isLasso ? "is-lasso" : ""}
          aria-label=${`map of ${kind}: arrow keys move, plus and minus zoom, 0 shows all, Enter lists the ${kind} in view`}
          onPointerDown=${down} onPointerMove=${move} onPointerUp=${up} onPointerCancel=${() => ((live.current.held = null), fingers.current.clear(), setLoop(null))}
          onPointerLeave=${() => !live.current.held && setHover(null)} onKeyDown=${keys}></canvas>
        ${loop && html`<svg class="loop" aria-hidden="true"><polygon points=${loop.map((one) => one.join(",")).join(" ")} /></svg>`}
        ${here && html`<i class="map-here" style=${{ left: `${here[0]}px`, top: `${here[1]}px` }}></i>`}
        ${hover?.track && html`<div class="map-tip" style=${{ left: `${hover.at[0]}px`, top: `${hover.at[1]}px` }}><b>${titleOf(hover.track)}</b> ${moreOf(hover.track)}</div>`}
        <p class="map-foot faint"><button class="link" onClick=${measure}>Frame rate</button>${rate !== null && ` ${rate} frames a second, ${live.current.cloud?.renderer}`}</p>
      </div>
      <aside class="map-list" aria-label=${`${kind} in the lasso`} aria-live="polite">
        ${list === null
          ? html`<p class="faint">Click a point to compare from ${kind === "artists" ? "the most played track of the artist" : "it"}. Draw a lasso around points to list them. With the keyboard: arrows, + and −, then Enter.</p>`
          : list.error
            ? html`<${Trouble} error=${list.error} />`
            : html`<h2>${count(list.num)} ${list.num === 1 ? kind.slice(0, -1) : kind}${list.num > list.found.length ? html`<span class="faint">, the ${list.found.length} most played</span>` : ""}</h2>
                <ol class="tracks">${list.found.map((track) => html`<li key=${track.track}><a class="two" href=${addressOf("compare", { t: track.track })}><b>${titleOf(track)}</b><span>${moreOf(track)}</span></a><span class="faint">${plays(track, room.knows_plays)}</span></li>`)}</ol>`}
      </aside>
    </div>
  </section>`;
}
