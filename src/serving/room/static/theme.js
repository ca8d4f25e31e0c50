// Before the first paint: the theme that was chosen, if it was.
(() => {
  const chosen = localStorage.getItem("segue-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
