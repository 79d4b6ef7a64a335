"""Style of report.html: light and dark, on any width and on paper."""

CSS = """
:root { --text: #1c2230; --soft: #566072; --page: #ffffff; --card: #f5f7fa; --line: #d9dee6; --link: #0b5cad;
  --yes: #0a6b3d; --yes-back: #dcf3e6; --no: #a01c1c; --no-back: #fbe3e1; --part: #7a4d00; --part-back: #fdf0d2;
  --none: #4b5563; --none-back: #e8ebf0; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e5e9f0; --soft: #a3adbd; --page: #14181f; --card: #1c222c; --line: #343c49; --link: #7db8f5;
    --yes: #8be0b2; --yes-back: #123626; --no: #ffa9a1; --no-back: #471b1a; --part: #f5cd7b; --part-back: #3d2e0c;
    --none: #c2c9d4; --none-back: #2b323d; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { margin: 0 auto; padding: 1.5rem clamp(1rem, 4vw, 2.5rem) 4rem; max-width: 76rem; color: var(--text);
  background: var(--page); font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", "DejaVu Sans",
  sans-serif; overflow-wrap: break-word; }
h1 { font-size: clamp(1.5rem, 1.1rem + 1.8vw, 2.2rem); line-height: 1.2; margin: .5rem 0 1rem; text-wrap: balance; }
h2 { font-size: 1.35rem; line-height: 1.3; margin: 3rem 0 .75rem; scroll-margin-top: 1rem; }
p, li { max-width: 46rem; }
p { margin: .75rem 0; }
a { color: var(--link); }
code { font: .9em/1.4 ui-monospace, "DejaVu Sans Mono", monospace; background: var(--card); padding: .05em .3em;
  border-radius: .25em; }
.small { font-size: .875rem; color: var(--soft); max-width: none; }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
.badge { display: inline-block; padding: .15em .65em; border-radius: 1em; font-weight: 600; font-size: .875rem;
  white-space: nowrap; color: var(--none); background: var(--none-back); border: 1px solid currentColor; }
.badge.yes { color: var(--yes); background: var(--yes-back); }
.badge.no { color: var(--no); background: var(--no-back); }
.badge.partly { color: var(--part); background: var(--part-back); }
.tally { display: flex; flex-wrap: wrap; gap: .5rem; list-style: none; padding: 0; margin: 1.25rem 0; }
.alert { border-left: .3rem solid var(--no); background: var(--no-back); padding: .6rem 1rem; border-radius: .25rem; }
.scroll { overflow-x: auto; margin: 1.25rem 0; max-width: 100%; position: relative; }
.scroll:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
table { border-collapse: collapse; font-size: .9375rem; line-height: 1.45; }
caption { text-align: left; font-weight: 600; padding: 0 0 .5rem; }
caption > span { display: block; max-width: min(46rem, 100vw - 2rem); }
th, td { text-align: left; vertical-align: top; padding: .45rem 1.4rem .45rem 0; border-bottom: 1px solid var(--line);
  overflow-wrap: normal; }
th:last-child, td:last-child { padding-right: 0; }
tbody th { font-weight: 500; min-width: clamp(6rem, 30vw, 11rem); position: sticky; left: 0; background: var(--page); }
tbody th code { white-space: nowrap; }
thead th { color: var(--soft); font-size: .875rem; font-weight: 600; vertical-align: bottom; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.claims { width: 100%; }
.claims th[scope=row] { width: 22%; font-weight: 600; }
.claims tbody th { position: static; }
.claims td { min-width: 7rem; }
.claims td:last-child { width: 30%; }
abbr { font-size: .75em; font-weight: 600; color: var(--soft); border: 1px solid var(--line); border-radius: .25em;
  padding: 0 .3em; text-decoration: none; cursor: help; }
nav { background: var(--card); border-radius: .75rem; padding: .25rem 1.5rem 1rem; margin: 3rem 0; }
nav h2 { margin-top: 1rem; }
nav ol { columns: 20rem; column-gap: 2.5rem; padding-left: 1.6rem; margin: 0; }
nav li { break-inside: avoid; padding: .15rem 0; }
.experiment { border-top: 1px solid var(--line); margin-top: 3rem; }
.experiment h2 { margin-top: 1.75rem; margin-bottom: 0; }
.experiment h2 + .small { margin-top: .25rem; }
figure { margin: 1.5rem 0; }
.card { background: #ffffff; border: 1px solid var(--line); border-radius: .5rem; padding: .75rem; width: fit-content;
  max-width: 100%; overflow-x: auto; }
img { display: block; max-width: 100%; height: auto; }
figcaption { color: var(--soft); font-size: .9375rem; margin-top: .5rem; max-width: 46rem; }
.notes { border-left: .25rem solid var(--part); background: var(--part-back); padding: .5rem 1rem; border-radius: .25rem;
  margin: 1.25rem 0; max-width: 48rem; }
.notes p, .notes ul { margin: .25rem 0; }
.notes ul { padding-left: 1.2rem; }
details .scroll { margin-top: 0; }
details { border: 1px solid var(--line); border-radius: .5rem; margin: .75rem 0; padding: 0 1rem; }
summary { cursor: pointer; font-weight: 600; padding: .7rem 0; }
@media screen and (max-width: 46rem) {
  .claims, .claims tbody, .claims tr, .claims th, .claims td { display: block; width: auto !important; }
  .claims thead { position: absolute; clip-path: inset(50%); width: 1px; height: 1px; overflow: hidden; }
  .claims tr { border: 1px solid var(--line); border-radius: .5rem; padding: .75rem 1rem; margin: 0 0 1rem; }
  .claims th, .claims td { border: 0; padding: .2rem 0; }
  .claims td::before { content: attr(data-head); display: block; font-size: .8125rem; color: var(--soft); }
}
@media print {
  :root { --text: #000; --soft: #444; --page: #fff; --card: #f5f7fa; --line: #bbb; --link: #000; --yes: #0a6b3d;
    --yes-back: #fff; --no: #a01c1c; --no-back: #fff; --part: #7a4d00; --part-back: #fff; --none: #444; --none-back: #fff; }
  body { font-size: 10pt; max-width: none; padding: 0; }
  .scroll, .card { overflow: visible; }
  tbody th { min-width: 0; position: static; }
  table { font-size: 8.5pt; }
  th, td { overflow-wrap: break-word; padding-right: .5rem; }
  h2 { break-after: avoid; }
  figure, tr, .notes, .badge { break-inside: avoid; }
  details { border: 0; padding: 0; }
  details::details-content { content-visibility: visible; height: auto; }
  .experiment { border: 0; }
}
""".strip()
