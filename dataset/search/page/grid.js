// The results: a grid in which only the tiles in view and some beyond them exist, near-duplicates that open behind their
// result, and movement by keys.

const GAP = 14;
const LEAST_WIDTH = 170;
const WORDS_HEIGHT = 66;
const BEYOND = 900; // pixels above and below the view in which tiles exist
const list = document.querySelector('#results');

export const shown = new Map(); // results by id
export const basket = new Map();
let order = []; // ids as shown
const nearOf = new Map(); // id of a near-duplicate → id of its result
const tiles = new Map(); // elements by id, or by place for those that wait
const broken = new Set(); // URLs
let waiting = 0;
let keep = null; // the id that had the focus last: its tile stays, so that the focus does
let atEnd = () => {};

/** Call `wanted` whenever the view comes near the end. */
export function begin(wanted) {
  atEnd = wanted;
  addEventListener('scroll', later, { passive: true });
  new ResizeObserver(later).observe(list.parentElement);
  list.addEventListener('focusin', () => {
    keep = focused()?.dataset.id ?? null;
    later();
  });
}

export function clear() {
  shown.clear();
  nearOf.clear();
  order = [];
  keep = null;
  waiting = 0;
  draw();
}

/** The number of results, without near-duplicates that were opened. */
export const results = () => order.length - nearOf.size;

export function skeletons(count) {
  waiting = count;
  draw();
}

export function append(found) {
  waiting = 0;
  for (const result of found) {
    const id = String(result.id);
    if (shown.has(id)) continue;
    shown.set(id, result);
    order.push(id);
  }
  draw();
}

/** Show near-duplicates behind their result. */
export function open(id, found) {
  const others = found.filter((one) => !shown.has(String(one.id)));
  for (const one of others) {
    shown.set(String(one.id), one);
    nearOf.set(String(one.id), id);
  }
  order.splice(order.indexOf(id) + 1, 0, ...others.map((one) => String(one.id)));
  again(id);
}

export const isOpen = (id) => [...nearOf.values()].includes(id);

export function close(id) {
  order = order.filter((one) => nearOf.get(one) !== id);
  for (const [one, of] of nearOf) {
    if (of !== id) continue;
    nearOf.delete(one);
    shown.delete(one);
  }
  again(id);
}

function again(id) {
  const button = tiles.get(id)?.querySelector('.near');
  if (button) label(button, id);
  draw();
}

let isDue = false;
function later() {
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(() => {
    isDue = false;
    draw();
  });
}

function sizes() {
  const all = list.clientWidth;
  const columns = Math.max(2, Math.floor((all + GAP) / (LEAST_WIDTH + GAP)));
  const width = (all - GAP * (columns - 1)) / columns;
  return { columns, width, height: width + WORDS_HEIGHT };
}

/** Bring the elements into line with the view. */
export function draw() {
  const { columns, width, height } = sizes();
  const length = order.length + waiting;
  const step = height + GAP;
  list.style.height = `${Math.ceil(length / columns) * step}px`;
  const top = -list.getBoundingClientRect().top;
  const first = Math.max(0, Math.floor((top - BEYOND) / step)) * columns;
  const last = Math.min(length, Math.ceil((top + innerHeight + BEYOND) / step) * columns);
  const places = Array.from({ length: Math.max(0, last - first) }, (_, at) => first + at);
  const kept = keep === null ? -1 : order.indexOf(keep);
  if (kept >= 0 && kept < first) places.unshift(kept);
  else if (kept >= last) places.push(kept);
  const inView = Math.min(length - 1, Math.max(0, Math.floor(top / step)) * columns);
  const stop = kept >= 0 && (focused() || (kept >= first && kept < last)) ? kept : inView; // the one tab stop
  const keys = places.map((at) => order[at] ?? `waits ${at}`);
  const wanted = new Set(keys);
  for (const [key, tile] of tiles) {
    if (wanted.has(key)) continue;
    tile.remove();
    tiles.delete(key);
  }
  let next = list.firstElementChild;
  keys.forEach((key, at) => {
    const place = places[at];
    let tile = tiles.get(key);
    if (tile) next = tile.nextElementSibling;
    else {
      tile = shown.has(key) ? tileOf(key) : skeleton();
      tiles.set(key, tile);
      list.insertBefore(tile, next);
    }
    tile.setAttribute('aria-posinset', place + 1);
    tile.setAttribute('aria-setsize', length);
    const button = tile.querySelector('button.result');
    if (button) button.tabIndex = place === stop ? 0 : -1;
    Object.assign(tile.style, {
      width: `${width}px`,
      height: `${height}px`,
      transform: `translate(${(place % columns) * (width + GAP)}px, ${Math.floor(place / columns) * step}px)`,
    });
  });
  if (last >= order.length) atEnd();
}

function skeleton() {
  const tile = document.createElement('li');
  tile.className = 'skeleton';
  tile.innerHTML = '<div class="result"><span class="picture"></span></div>';
  return tile;
}

export function picture(row) {
  const frame = document.createElement('span');
  frame.className = 'picture';
  const isWeb = /^https?:/i.test(row.url ?? '');
  if (!isWeb || broken.has(row.url)) {
    missing(frame, isWeb, row.caption);
    return frame;
  }
  const image = document.createElement('img');
  Object.assign(image, { loading: 'lazy', decoding: 'async', referrerPolicy: 'no-referrer', alt: row.caption ?? '' });
  image.onerror = () => {
    broken.add(row.url);
    missing(frame, true, row.caption);
  };
  image.src = row.url;
  frame.append(image);
  return frame;
}

function missing(frame, hasUrl, caption) {
  const said = document.createElement('span');
  said.className = 'missing';
  const reason = hasUrl ? 'This picture cannot be loaded' : 'This row has no URL';
  said.textContent = caption ? `${reason}: ${caption}` : reason;
  frame.replaceChildren(said);
}

function tileOf(id) {
  const { row, similarity, near_duplicates: others } = shown.get(id);
  const tile = document.createElement('li');
  const button = document.createElement('button');
  button.type = 'button';
  button.className = row.punsafe >= 0.45 ? 'result unsafe' : 'result';
  button.dataset.id = id;
  button.setAttribute('aria-pressed', basket.has(id));
  const words = document.createElement('span');
  words.className = 'words';
  const score = document.createElement('b');
  score.textContent = `${nearOf.has(id) ? '≈ ' : ''}${similarity.toFixed(4)}`;
  const size = row.WIDTH ? `  ${row.WIDTH} × ${row.HEIGHT}` : '';
  const caption = document.createElement('span');
  caption.className = 'caption';
  caption.textContent = row.caption ?? '';
  words.append(score, size, caption);
  button.append(picture(row), words);
  tile.append(button);
  if (nearOf.has(id)) {
    tile.className = 'of-another';
    score.title = 'The cosine with the result that it is near';
  }
  if (others) {
    const near = Object.assign(document.createElement('button'), { type: 'button', className: 'near', tabIndex: -1 });
    label(near, id);
    tile.append(near);
  }
  return tile;
}

/** Say how many near-duplicates there are: exactly where the index knows groups, otherwise at least so many. */
function label(button, id) {
  const { near_duplicates: others, group_size: size } = shown.get(id);
  const opened = [...nearOf.values()].filter((one) => one === id).length;
  const number = others.toLocaleString();
  button.textContent = `${opened ? '−' : size ? '+' : '≥'}${number}`;
  button.title = `${size ? '' : 'at least '}${number} near-duplicate${others === 1 ? '' : 's'}`
    + (opened && opened < others ? `, ${opened.toLocaleString()} shown: filters leave out the others` : '');
  button.setAttribute('aria-label', button.title);
  button.setAttribute('aria-expanded', isOpen(id));
}

export const focused = () => document.activeElement?.closest('#results li')?.querySelector('button.result');

/** Move the focus by a key; false when the key moves nothing. */
export function move(key) {
  const { columns, height } = sizes();
  const at = focused() ? order.indexOf(focused().dataset.id) : -1;
  const screen = columns * Math.max(1, Math.floor(innerHeight / (height + GAP)));
  const last = order.length - 1;
  const to = {
    ArrowLeft: at - 1, ArrowRight: at + 1, ArrowUp: at - columns, ArrowDown: at + columns,
    PageUp: Math.max(0, at - screen), PageDown: Math.min(last, at + screen), Home: 0, End: last,
  }[key];
  if (to === undefined || last < 0 || (at < 0 && !key.startsWith('Arrow'))) return false;
  const target = at < 0 ? 0 : to;
  if (target < 0 || target > last) return true;
  focusOn(order[target]).scrollIntoView({ block: 'nearest' });
  return true;
}

/** Move the focus to a result, or to the first one, without scrolling. */
export function focusOn(id = order[0]) {
  if (!shown.has(id)) return null;
  keep = id;
  draw();
  const button = tiles.get(id).querySelector('.result');
  button.focus({ preventScroll: true });
  return button;
}

export function toggle(button) {
  const { id } = button.dataset;
  if (basket.has(id)) basket.delete(id);
  else basket.set(id, shown.get(id));
  button.setAttribute('aria-pressed', basket.has(id));
}

/** Put all results that were loaded into the basket. */
export function selectAll() {
  for (const [id, result] of shown) basket.set(id, result);
  refreshPressed();
}

export function refreshPressed() {
  for (const button of list.querySelectorAll('button.result')) button.setAttribute('aria-pressed', basket.has(button.dataset.id));
}
