// The query as the page shows it, and its place in the address. Pictures are too large for an address: there they are
// kept as the vector that the server made of them, in the session's storage, by a short name.

export const state = { index: '', modality: 'image', terms: [], facets: [], host: '', hostOut: '', safe: true, collapse: true, least: 0 };

export function toAddress() {
  const asked = new URLSearchParams();
  if (state.index) asked.set('index', state.index);
  if (state.modality !== 'image') asked.set('modality', state.modality);
  for (const { kind, value, name, weight } of state.terms) asked.append('term', `${weight}:${kind}:${name ?? value}`);
  for (const facet of state.facets) asked.append('facet', facet);
  if (state.host) asked.set('host', state.host);
  if (state.hostOut) asked.set('not-host', state.hostOut);
  if (!state.safe) asked.set('unsafe', '1');
  if (!state.collapse) asked.set('duplicates', '1');
  if (state.least) asked.set('least', state.least);
  return asked.size ? `?${asked}` : location.pathname;
}

export function fromAddress() {
  const asked = new URLSearchParams(location.search);
  state.index = asked.get('index') ?? '';
  state.modality = asked.get('modality') === 'text' ? 'text' : 'image';
  state.terms = asked.getAll('term').map(readTerm).filter(Boolean);
  state.facets = asked.getAll('facet');
  state.host = asked.get('host') ?? '';
  state.hostOut = asked.get('not-host') ?? '';
  state.safe = !asked.has('unsafe');
  state.collapse = !asked.has('duplicates');
  state.least = Number(asked.get('least')) || 0;
}

function readTerm(text) {
  const [, weight, kind, value] = text.match(/^(-?[\d.]+):(text|url|id|picture):(.*)$/s) ?? [];
  if (!kind) return null;
  if (kind === 'id') return { kind, value: Number(value), weight: Number(weight) };
  if (kind !== 'picture') return { kind, value, weight: Number(weight) };
  const kept = sessionStorage.getItem(value);
  return kept && { kind, value: kept, name: value, weight: Number(weight) };
}

/** The hosts in a text; of a URL its host. */
export function hostsOf(text) {
  const host = (one) => one.replace(/^[a-z]+:\/\//i, '').replace(/\/.*$/, '').replace(/:\d+$/, '');
  return text.split(/[\s,|]+/).map(host).filter(Boolean);
}

/** The filter in the server's words: values of one facet are joined by |, facets by commas. */
export function filterText() {
  const values = new Map();
  const plain = [];
  for (const facet of state.facets) {
    const [name, value] = facet.split(/=(.*)/s);
    if (value === undefined) plain.push(name);
    else values.set(name, [...(values.get(name) ?? []), value]);
  }
  for (const [name, text] of [['host', state.host], ['!host', state.hostOut]]) {
    if (hostsOf(text).length) values.set(name, hostsOf(text));
  }
  return [...plain, ...[...values].map(([name, some]) => `${name}=${some.join('|')}`)].join(',');
}

export function question() {
  return {
    index: state.index || undefined,
    modality: state.modality,
    terms: state.terms.map(({ kind, value, weight }) => ({ [kind]: value, weight })),
    filters: filterText(),
    safe: state.safe,
    collapse: state.collapse,
    at_least: state.least || undefined,
  };
}

export function addTerm(kind, value, weight = 1) {
  const term = { kind, value, weight };
  if (kind === 'picture') {
    term.name = `picture-${Date.now()}`;
    sessionStorage.setItem(term.name, value);
  }
  state.terms.push(term);
}
