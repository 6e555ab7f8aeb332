// The search page: it puts the parts together, and answers what a person does.

import { ask, pictureTerm } from './api.js';
import { showDetail } from './detail.js';
import { showCount, showFacets, showHostRows } from './filters.js';
import * as grid from './grid.js';
import { basket, focused, move, refreshPressed, shown, toggle } from './grid.js';
import { exportAs, saveBasket } from './save.js';
import { addTerm, fromAddress, question, state, toAddress } from './state.js';
import { showTerms } from './terms.js';

const MOST_RESULTS = 10_000;
const FIRST_RESULTS = 60;
const MOST_FURTHER = 600; // a further page is as long as what there is, up to so many
const MOST_NEAR = 200;
const STILL = 200; // milliseconds after a scroll, or a move of the threshold
const COLUMNS = ['url', 'caption', 'WIDTH', 'HEIGHT', 'punsafe', 'similarity', 'LANGUAGE', 'hash', 'sha256'];
const find = (name) => document.querySelector(name);
const said = find('#said');
let columns = [];
let cursor = null;
let searching = null;
let counting = 0;

function say(text, isWrong = false) {
  said.textContent = text;
  said.classList.toggle('wrong', isWrong);
}

/** Load the first page or the next one. `back` is what `remember` kept; `focus` moves the focus to the first result. */
async function loadPage(isFirst, { back, focus } = {}) {
  searching?.abort();
  const mine = searching = new AbortController();
  grid.skeletons(isFirst ? 12 : 24);
  try {
    const further = Math.min(grid.results(), MOST_FURTHER, MOST_RESULTS - grid.results());
    const limit = isFirst ? Math.min(MOST_RESULTS, Math.max(FIRST_RESULTS, back?.loaded ?? 0)) : further;
    const asked = { ...question(), limit, columns, cursor: isFirst ? undefined : cursor };
    const page = await ask('api/search', asked, { signal: mine.signal });
    cursor = page.cursor;
    grid.append(page.results);
    if (back) scrollTo({ top: back.top });
    if (back?.id || focus) grid.focusOn(back?.id);
    if (grid.results() >= MOST_RESULTS) cursor = null;
    const number = grid.results().toLocaleString();
    say(grid.results() ? `${number} results${cursor ? ', more below' : ''}` : 'Nothing was found: change the query or a filter.');
  } catch (error) {
    if (error.name === 'AbortError') return;
    cursor = null;
    grid.skeletons(0);
    say(error.message, true);
  }
  if (searching !== mine) return;
  searching = null;
  grid.draw();
}

/** Show or hide the near-duplicates of a result. */
async function turnNear(id) {
  if (grid.isOpen(id)) {
    grid.close(id);
    return;
  }
  const { index, modality, filters, safe } = question();
  try {
    const asked = { index, modality, filters, safe, limit: MOST_NEAR, columns };
    const { results, exact } = await ask(`api/rows/${id}/near-duplicates`, asked);
    if (!shown.has(id) || grid.isOpen(id)) return;
    if (!exact) shown.get(id).near_duplicates = Math.max(shown.get(id).near_duplicates, results.length);
    grid.open(id, results);
  } catch (error) {
    say(error.message, true);
  }
}

/** Keep in the history what going back needs: the place, how many results there were, and the focus. */
function remember() {
  if (searching) return;
  history.replaceState({ top: scrollY, loaded: grid.results(), id: focused()?.dataset.id }, '');
}

/** Answer the question. `back` is the state of the history's entry that is shown, null for a new entry. */
function search({ back, focus = false } = {}) {
  if (back === undefined) {
    remember();
    history.pushState(null, '', toAddress());
  }
  showTerms(search);
  searching?.abort();
  searching = null;
  cursor = null;
  grid.clear();
  find('#export-line').hidden = !state.terms.length;
  if (state.terms.length) {
    say('Searching…');
    loadPage(true, { back, focus }).then(showCount); // the results come first
    return;
  }
  showCount();
  say('Describe a picture, drop one, or paste its URL. Pictures and captions come from the web and may disturb.');
}

function only(kind, value, options) {
  state.terms = [];
  addTerm(kind, value);
  search(options);
  scrollTo({ top: 0 });
}

function act(what, { id, row }) {
  if (what === 'similar') only('id', id, { focus: true });
  else only('text', row.caption ?? '', { focus: true });
}

async function addPicture(blob) {
  try {
    only('picture', await pictureTerm(blob));
  } catch {
    say('This file is not a picture that the browser can read.', true);
  }
}

function showBasket() {
  find('#basket').hidden = !basket.size;
  find('#basket-said').textContent = `${basket.size.toLocaleString()} in the basket:`;
}

// What a person does.

find('#query').addEventListener('submit', (event) => {
  event.preventDefault();
  const text = find('#text').value.trim();
  if (!text) return;
  if (event.submitter?.value !== 'add') state.terms = [];
  addTerm(/^https?:\/\/\S+$/i.test(text) ? 'url' : 'text', text);
  find('#text').value = '';
  search();
});

find('#file').addEventListener('change', ({ target }) => {
  if (target.files[0]) addPicture(target.files[0]);
  target.value = '';
});

addEventListener('paste', ({ clipboardData }) => {
  const file = [...clipboardData.files].find(({ type }) => type.startsWith('image/'));
  if (file) addPicture(file);
});

for (const kind of ['dragover', 'dragleave', 'drop']) {
  addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.toggle('dropping', kind === 'dragover');
    if (kind === 'drop' && event.dataTransfer.files[0]) addPicture(event.dataTransfer.files[0]);
  });
}

find('#filters').addEventListener('submit', (event) => event.preventDefault());
find('#filters').addEventListener('change', async ({ target }) => {
  const { id } = target;
  if (id === 'index') Object.assign(state, { index: target.value, facets: [] });
  else if (id === 'threshold') state.least = Number(target.value);
  else if (id === 'safe' || id === 'collapse') state[id] = target.checked;
  else if (id === 'host' || id === 'hostOut' || id === 'modality') state[id] = target.value;
  else state.facets = [...document.querySelectorAll('[name=facet]:checked')].map(({ value }) => value);
  if (id === 'index') await prepare();
  search();
});
for (const name of ['#host', '#hostOut']) find(name).addEventListener('input', ({ target }) => showHostRows(target));
find('#threshold').addEventListener('input', ({ target }) => {
  find('#threshold-said').textContent = Number(target.value) ? target.value : 'any';
  state.least = Number(target.value);
  clearTimeout(counting);
  counting = setTimeout(showCount, STILL);
});

find('#results').addEventListener('click', (event) => {
  const near = event.target.closest('.near');
  if (near) turnNear(near.previousElementSibling.dataset.id);
  const button = event.target.closest('.result');
  if (!button?.dataset.id) return;
  if (event.ctrlKey || event.metaKey) {
    toggle(button);
    showBasket();
  } else showDetail(shown.get(button.dataset.id), act);
});

find('#basket').addEventListener('click', ({ target }) => {
  if (target.dataset.save === 'parquet') exportAs({ index: state.index || undefined, ids: [...basket.keys()].map(Number) }, 'parquet');
  else if (target.dataset.save) saveBasket([...basket.values()], target.dataset.save);
  else if (target.id === 'clear') {
    basket.clear();
    refreshPressed();
    showBasket();
  }
});

find('#export-line').addEventListener('click', ({ target }) => {
  if (target.id === 'select') {
    grid.selectAll();
    showBasket();
  }
  if (target.dataset.export) exportAs(question(), target.dataset.export);
});

find('#help').addEventListener('click', () => find('#keys').showModal());

addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector('dialog[open]')) return;
  if (/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement?.tagName)) return;
  const button = focused();
  const result = button && shown.get(button.dataset.id);
  if (event.key === '/') find('#text').focus();
  else if (event.key === '?') find('#keys').showModal();
  else if (result && event.key === 's') only('id', result.id, { focus: true });
  else if (result?.near_duplicates && event.key === 'd') turnNear(button.dataset.id);
  else if (result && event.key === 'x') {
    toggle(button);
    showBasket();
  } else if (result && (event.key === '+' || event.key === '-')) {
    addTerm('id', result.id, event.key === '+' ? 0.5 : -0.5);
    search({ focus: true });
  } else if (!move(event.key)) return;
  event.preventDefault();
});

grid.begin(() => {
  if (cursor && !searching) loadPage(false);
});

history.scrollRestoration = 'manual';
let still = 0;
addEventListener('scroll', () => {
  clearTimeout(still);
  still = setTimeout(remember, STILL);
}, { passive: true });
addEventListener('pagehide', remember);
addEventListener('popstate', async ({ state: back }) => {
  clearTimeout(still);
  fromAddress();
  await prepare();
  search({ back });
});

/** Bring the form into line with the query and the index. */
async function prepare() {
  const { indexes, safe, reports, traces, may_leave_safe: mayLeave } = await ask('api/indexes');
  find('[data-act=report]').hidden = !reports;
  find('#trace').hidden = !traces;
  const chosen = indexes.find(({ name }) => name === state.index) ?? indexes[0];
  find('#index').replaceChildren(...indexes.map(({ name, rows }) => new Option(`${name} (${rows.toLocaleString()})`, name, false, name === chosen.name)));
  for (const link of document.querySelectorAll('header nav a')) {
    link.href = chosen.pages[link.textContent] ?? `./?index=${encodeURIComponent(chosen.name)}`;
  }
  columns = COLUMNS.filter((name) => chosen.columns.includes(name));
  find('#modality-choice').hidden = chosen.modalities.length < 2;
  find('#modality').value = state.modality;
  find('#safe').checked = state.safe || !mayLeave;
  find('#safe').disabled = !mayLeave || !chosen.can_be_safe;
  if (!safe && !location.search) state.safe = find('#safe').checked = false;
  find('#collapse').checked = state.collapse;
  find('#host').value = state.host;
  find('#hostOut').value = state.hostOut;
  showHostRows(find('#host'));
  showHostRows(find('#hostOut'));
  find('#threshold').value = state.least;
  find('#threshold-said').textContent = state.least || 'any';
  await showFacets();
}

if (matchMedia('(max-width: 720px)').matches) find('#filters-box').open = false;
fromAddress();
showTerms(search);
document.documentElement.classList.remove('starting');
await prepare();
find('#filters').classList.remove('starting');
search({ back: history.state });
