"use strict";
(() => {
  const form = document.getElementById("filter");
  const count = document.getElementById("count");
  const items = [...document.querySelectorAll("#cases > details, #others tr[data-verdict]")];
  const decided = new Map(
    items.map((item) => [item, new Map(item.dataset.clauses.split(" ").map((pair) => pair.split(":")))]),
  );

  const apply = () => {
    const chosen = new FormData(form);
    const verdicts = new Set(chosen.getAll("verdict"));
    const subject = chosen.get("subject");
    const clause = chosen.get("clause");
    let shown = 0;
    for (const item of items) {
      // where one clause is asked for, its own verdict counts, and not the worst of the case
      const verdict = clause ? decided.get(item).get(clause) : item.dataset.verdict;
      item.hidden = !verdicts.has(verdict) || (subject !== "" && subject !== item.dataset.subject);
      shown += item.hidden ? 0 : 1;
    }
    count.textContent = `${shown} of ${items.length} cases`;
  };

  form.hidden = false;
  form.addEventListener("change", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(apply));

  const setOpen = (open) => document.querySelectorAll("details.case").forEach((item) => (item.open = open));
  for (const button of document.querySelectorAll("button[data-open]")) {
    button.parentElement.hidden = false;
    button.addEventListener("click", () => setOpen(button.dataset.open !== ""));
  }

  // a link to a case that is filtered away or closed opens it
  const reveal = () => {
    const target = location.hash.startsWith("#case-") && document.getElementById(location.hash.slice(1));
    if (target) {
      if (target.hidden) {
        form.reset();
        target.hidden = false;
      }
      target.open = true;
      target.scrollIntoView();
    }
  };
  for (const link of document.querySelectorAll("a[data-clause]")) {
    link.addEventListener("click", () => {
      form.reset();
      form.elements.subject.value = link.dataset.subject;
      form.elements.clause.value = link.dataset.clause;
      setTimeout(() => {
        form.elements.subject.value = link.dataset.subject;
        form.elements.clause.value = link.dataset.clause;
        apply();
        reveal();
      });
    });
  }
  window.addEventListener("hashchange", reveal);
  window.addEventListener("beforeprint", () => setOpen(true));
  apply();
  reveal();
})();
