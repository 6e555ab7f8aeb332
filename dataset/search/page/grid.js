// The results: tiles, further pages as the end comes near, and movement by keys.

const list = document.querySelector('#results');

export const shown = new Map();
export const basket = new Map();

export function clear() {
  shown.clear();
  list.replaceChildren();
}

export function skeletons(count) {
  const tiles = Array.from({ length: count }, () => {
    const tile = document.createElement('li');
    tile.className = 'skeleton';
    tile.innerHTML = '<div class="result"><span class="picture"></span><span class="words"><span class="caption"></span></span></div>';
    return tile;
  });
  list.append(...tiles);
  return () => tiles.forEach((tile) => tile.remove());
}

export function picture(row) {
  const frame = document.createElement('span');
  frame.className = 'picture';
  const image = document.createElement('img');
  Object.assign(image, { loading: 'lazy', decoding: 'async', referrerPolicy: 'no-referrer', alt: row.caption ?? '' });
  image.onerror = () => missing(frame, row.url ? 'This picture cannot be loaded' : 'This row has no URL', row.caption);
  if (/^https?:/i.test(row.url ?? '')) image.src = row.url;
  else image.onerror();
  if (!frame.childNodes.length) frame.append(image);
  return frame;
}

function missing(frame, reason, caption) {
  const said = document.createElement('span');
  said.className = 'missing';
  said.textContent = caption ? `${reason}: ${caption}` : reason;
  frame.replaceChildren(said);
}

export function append(results) {
  const tiles = results.map((result) => {
    const { id, row, similarity } = result;
    shown.set(String(id), result);
    const tile = document.createElement('li');
    const button = document.createElement('button');
    button.type = 'button';
    button.className = row.punsafe >= 0.45 ? 'result unsafe' : 'result';
    button.dataset.id = id;
    button.setAttribute('aria-pressed', basket.has(String(id)));
    const words = document.createElement('span');
    words.className = 'words';
    const score = document.createElement('b');
    score.textContent = similarity.toFixed(4);
    const others = row.group_size > 1 ? ` +${row.group_size - 1}` : '';
    const size = row.WIDTH ? `  ${row.WIDTH} × ${row.HEIGHT}` : '';
    const caption = document.createElement('span');
    caption.className = 'caption';
    caption.textContent = row.caption ?? '';
    words.append(score, others, size, caption);
    button.append(picture(row), words);
    tile.append(button);
    return tile;
  });
  list.append(...tiles);
}

export const focused = () => document.activeElement?.closest?.('.result');

export function move(key) {
  const tiles = [...list.querySelectorAll('button.result')];
  const at = tiles.indexOf(focused());
  if (at < 0) {
    tiles[0]?.focus();
    return;
  }
  const columns = getComputedStyle(list).gridTemplateColumns.split(' ').length;
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[key];
  const target = tiles[at + step];
  target?.focus();
  target?.scrollIntoView({ block: 'nearest' });
}

export function toggle(button) {
  const { id } = button.dataset;
  if (basket.has(id)) basket.delete(id);
  else basket.set(id, shown.get(id));
  button.setAttribute('aria-pressed', basket.has(id));
}

export function refreshPressed() {
  for (const button of list.querySelectorAll('button.result')) button.setAttribute('aria-pressed', basket.has(button.dataset.id));
}
