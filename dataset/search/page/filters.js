// The filters: what the index can be filtered by, with counts, and how many rows there are.

import { ask } from './api.js';
import { hostsOf, question, state } from './state.js';

const NAMES = { 'min-side': 'Both sides at least', lang: 'Language', aspect: 'Shape', aesthetic: 'Aesthetic score at least', subset: 'Subset', crawl: 'Crawl' };
const LEFT_OUT = new Set(['alive', 'safe']);
const box = document.querySelector('#facets');
const count = document.querySelector('#count');
let counting = null;

export async function showFacets() {
  const found = await ask(`api/facets${state.index ? `?index=${encodeURIComponent(state.index)}` : ''}`);
  const groups = new Map();
  for (const [facet, rows] of Object.entries(found)) {
    if (LEFT_OUT.has(facet)) continue;
    const name = facet.includes('=') ? facet.slice(0, facet.indexOf('=')) : '';
    groups.set(name, [...(groups.get(name) ?? []), [facet, rows]]);
  }
  box.replaceChildren(...[...groups].map(([name, facets]) => group(name, facets)));
}

function group(name, facets) {
  const set = document.createElement('fieldset');
  const legend = document.createElement('legend');
  legend.textContent = NAMES[name] ?? (name || 'Only');
  const most = [...facets].sort((one, other) => other[1] - one[1]).slice(0, 12);
  set.append(legend, ...most.map(([facet, rows]) => {
    const label = document.createElement('label');
    const check = Object.assign(document.createElement('input'), { type: 'checkbox', name: 'facet', value: facet });
    check.checked = state.facets.includes(facet);
    const words = document.createElement('span');
    words.append(check, ` ${facet.slice(name ? name.length + 1 : 0)}`);
    const number = document.createElement('small');
    number.textContent = rows.toLocaleString();
    label.append(words, number);
    return label;
  }));
  return set;
}

export const rowsOf = (number) => `${number.toLocaleString()} ${number === 1 ? 'row' : 'rows'}`;

const TYPING = 250; // milliseconds without a key
const typing = new Map();

/** Show how many rows the hosts in a field have, while they are typed. */
export function showHostRows(field) {
  clearTimeout(typing.get(field.id));
  const said = document.querySelector(`.host-rows[data-of=${field.id}]`);
  const hosts = hostsOf(field.value);
  const show = async () => {
    const asked = { index: state.index || undefined, filters: `host=${hosts.join('|')}`, safe: state.safe };
    const text = await ask('api/count', asked).then((found) => rowsOf(found.rows), ({ message }) => message);
    if (hostsOf(field.value).join() === hosts.join()) said.textContent = text;
  };
  if (hosts.length) typing.set(field.id, setTimeout(show, TYPING));
  else said.textContent = '';
}

/** Show how many rows there are; the answer of an earlier question is dropped. */
export async function showCount() {
  counting?.abort();
  counting = new AbortController();
  const { terms, at_least, ...rest } = question();
  const asked = at_least && terms.length ? { terms, at_least, ...rest } : rest;
  delete asked.collapse;
  try {
    const found = await ask('api/count', asked, { signal: counting.signal });
    const about = found.low === found.high ? '' : 'about ';
    const spread = about ? ` (${found.low.toLocaleString()} to ${found.high.toLocaleString()})` : '';
    count.textContent = `${about}${rowsOf(found.rows)}${at_least ? ` at ${at_least} or more` : ''}${spread}`;
  } catch (error) {
    if (error.name !== 'AbortError') count.textContent = error.message;
  }
}
