'use strict';
const list = document.getElementById('cards');
const cards = [...list.children];
const chosen = name => document.getElementById('by-' + name).value;
const told = document.getElementById('told');

// A judge and a cause are asked of one trace: "what of this judge was rejected".
function fits(card) {
  const judge = chosen('judge'), cause = chosen('cause');
  const said = JSON.parse(card.dataset.said);
  if ((judge || cause) && !said.some(([j, c]) => (!judge || j === judge) && (!cause || c === cause))) return false;
  if (chosen('editor') && card.dataset.editor !== chosen('editor')) return false;
  if (chosen('category') && card.dataset.category !== chosen('category')) return false;
  const low = Number(chosen('low')) / 100, high = Number(chosen('high')) / 100;
  if (low <= 0 && high >= 1) return true;
  if (card.dataset.agreement === '') return false;
  const agreement = Number(card.dataset.agreement);
  return agreement >= low - 1e-9 && agreement <= high + 1e-9;
}

const value = (card, name) => (card.dataset[name] === '' ? Infinity : Number(card.dataset[name]));
const orders = {
  found: (a, b) => a.dataset.place - b.dataset.place,
  low: (a, b) => value(a, 'agreement') - value(b, 'agreement') || orders.found(a, b),
  high: (a, b) => (b.dataset.agreement || -1) - (a.dataset.agreement || -1) || orders.found(a, b),
  differ: (a, b) => (b.dataset.disagreement || -1) - (a.dataset.disagreement || -1) || orders.found(a, b),
};

function show() {
  document.getElementById('range').textContent = chosen('low') + ' to ' + chosen('high') + ' %';
  let shown = 0;
  for (const card of cards) {
    card.hidden = !fits(card);
    shown += card.hidden ? 0 : 1;
  }
  list.append(...[...cards].sort(orders[chosen('order')]));
  told.textContent = shown + ' of ' + cards.length + ' shown';
}

for (const control of document.querySelectorAll('#filters select, #filters input')) control.addEventListener('input', show);
document.getElementById('filters').addEventListener('reset', () => setTimeout(show));
document.getElementById('filters').hidden = false;
show();
