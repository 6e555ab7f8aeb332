// The search page: a text, the pictures found, and further pages. The query is in the address, so that it can be shared.

const form = document.querySelector('form');
const said = document.querySelector('#said');
const list = document.querySelector('#results');
const more = document.querySelector('#more');
let query = null;

async function ask(path, body) {
  const options = body && { method: 'POST', body: JSON.stringify(body), headers: { 'Content-Type': 'application/json' } };
  const response = await fetch(path, options);
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.message);
  return answer;
}

function item(result) {
  const entry = document.createElement('li');
  const picture = document.createElement('img');
  Object.assign(picture, { loading: 'lazy', referrerPolicy: 'no-referrer', alt: result.row.caption ?? '' });
  picture.addEventListener('error', () => {
    const missing = document.createElement('div');
    missing.className = 'missing';
    missing.title = 'This picture cannot be loaded';
    picture.replaceWith(missing);
  });
  picture.src = result.row.url ?? '';
  const caption = document.createElement('p');
  caption.textContent = result.row.caption ?? '';
  const similarity = document.createElement('p');
  similarity.textContent = result.similarity.toFixed(4);
  entry.append(picture, caption, similarity);
  return entry;
}

async function show(cursor) {
  said.textContent = 'Searching…';
  try {
    const page = await ask('api/search', cursor ? { ...query, cursor } : query);
    if (!cursor) list.replaceChildren();
    list.append(...page.results.map(item));
    more.hidden = !page.cursor;
    more.onclick = () => show(page.cursor);
    said.textContent = list.children.length ? '' : 'Nothing was found.';
  } catch (error) {
    said.textContent = error.message;
  }
}

function begin(text, index) {
  query = { index: index || undefined, terms: [{ text }] };
  show();
}

form.addEventListener('submit', (event) => {
  event.preventDefault();
  const asked = new URLSearchParams(new FormData(form));
  history.pushState(null, '', `?${asked}`);
  begin(asked.get('text'), asked.get('index'));
});

function restore() {
  const asked = new URLSearchParams(location.search);
  form.text.value = asked.get('text') ?? '';
  if (asked.get('index')) form.index.value = asked.get('index');
  if (form.text.value) begin(form.text.value, form.index.value);
}

addEventListener('popstate', restore);
const { indexes } = await ask('api/indexes');
form.index.replaceChildren(...indexes.map(({ name, rows }) => new Option(`${name} (${rows.toLocaleString()})`, name)));
restore();
