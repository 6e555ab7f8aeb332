"""The style of the report's page, light and dark. In all charts kept is teal and dropped is grey."""

STYLE = """
:root { color-scheme: light dark; --page: #f6f7f8; --card: #fff; --ink: #1c2329; --soft: #5d6872; --line: #dfe3e6;
  --kept: #0f7f86; --dropped: #b9c2c9; --threshold: #c2410c; }
@media (prefers-color-scheme: dark) { :root { --page: #13181c; --card: #1b2227; --ink: #e8ecee; --soft: #9aa6af;
  --line: #2e373e; --kept: #35b0b4; --dropped: #55626c; --threshold: #fb923c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.45 system-ui, "Segoe UI", Roboto, sans-serif; }
header, main { max-width: 1240px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 34px; }
h1 { font-size: 26px; margin: 0; letter-spacing: -.01em; }
h2 { font-size: 17px; margin: 0 0 4px; }
header p, .note { color: var(--soft); margin: 0 0 14px; font-size: 13.5px; }
section, .tiles > div { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
section { padding: 18px 20px; margin: 16px 0; min-width: 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(190px, 44%), 1fr)); gap: 16px;
  margin: 20px 0 0; }
.tiles > div { padding: 14px 18px; }
.tiles b { display: block; font-size: 27px; font-weight: 650; font-variant-numeric: tabular-nums; }
.tiles span { color: var(--soft); font-size: 13px; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(440px, 100%), 1fr)); gap: 16px; }
main > .columns { margin: 16px 0; }
main > .columns > section { margin: 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 6px 10px; border-bottom: 1px solid var(--line); font-weight: 400; }
thead th { color: var(--soft); font-size: 13px; }
th:first-child { text-align: left; padding-left: 0; }
tbody th { font-weight: 600; }
tbody tr:last-child > * { border-bottom: 0; }
.bars > div { display: grid; grid-template-columns: 128px 1fr 104px; align-items: center; gap: 10px; padding: 2.5px 0; }
.name { text-align: right; font-size: 13.5px; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.bar { display: block; height: 15px; min-width: 2px; border-radius: 0 3px 3px 0; background: var(--dropped); }
.bar i { display: block; height: 100%; background: var(--kept); }
.n { font-size: 13px; color: var(--soft); font-variant-numeric: tabular-nums; white-space: nowrap; }
.key { display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin: 0 5px -1px 0; }
.key.kept { background: var(--kept); } .key.dropped { background: var(--dropped); }
.key + .key, .key.dropped:not(:first-child), .key.kept:not(:first-child) { margin-left: 8px; }
figure { margin: 0; min-width: 0; }
figcaption { font-size: 13.5px; color: var(--soft); }
figcaption b { color: var(--ink); }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg .kept { fill: var(--kept); } svg .dropped { fill: var(--dropped); }
svg .grid { stroke: var(--line); }
svg .fill { fill: var(--kept); }
svg .line0, svg .line1 { fill: none; stroke: var(--kept); stroke-width: 2; }
svg .line1 { stroke: var(--threshold); stroke-dasharray: 5 3; }
svg .dot0 { fill: var(--kept); } svg .dot1 { fill: var(--threshold); }
svg.square { max-width: 400px; margin: 0 auto; }
.key.line0 { background: var(--kept); } .key.line1 { background: var(--threshold); margin-left: 8px; }
.blur img { filter: blur(14px); } .blur img:hover { filter: none; }
.plain .bar { background: var(--kept); }
.wide { overflow-x: auto; }
.wide td { white-space: nowrap; }
.text { display: -webkit-box; -webkit-line-clamp: 2; -webkit-box-orient: vertical; overflow: hidden;
  overflow-wrap: anywhere; font-weight: 400; }
td small { color: var(--soft); display: inline-block; min-width: 62px; }
svg .threshold { stroke: var(--threshold); stroke-width: 1.6; stroke-dasharray: 5 3; }
svg text { fill: var(--soft); font-size: 11.5px; font-variant-numeric: tabular-nums; }
svg .count { text-anchor: end; } svg .tick { text-anchor: middle; }
svg .said { text-anchor: middle; fill: var(--threshold); font-weight: 600; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 16px 14px; }
.gallery img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; background: var(--page);
  border-radius: 6px; margin-bottom: 6px; }
.gallery b { font-variant-numeric: tabular-nums; }
.gallery small { color: var(--soft); float: right; line-height: 22px; }
.gallery p { clear: both; margin: 2px 0 0; font-size: 12.5px; line-height: 1.35; overflow-wrap: anywhere; }
@media (max-width: 520px) {
  header, main { padding: 0 12px; } header { padding-top: 22px; } section { padding: 14px; }
  .tiles { gap: 10px; } .tiles b { font-size: 22px; } th, td { padding: 6px; } td small { display: block; }
  .bars > div { grid-template-columns: 104px 1fr 74px; } svg text { font-size: 17px; }
  svg.square text { font-size: 13px; }
}
"""
