(() => {
  const root = document.documentElement;
  document.getElementById("theme").addEventListener("click", () => {
    const dark = root.dataset.theme
      ? root.dataset.theme === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
  const dialog = document.getElementById("large");
  const shown = dialog.querySelector("img");
  document.addEventListener("click", (event) => {
    const button = event.target.closest(".zoom");
    if (button) {
      const small = button.querySelector("img");
      const grow = Math.max(1, Math.min(4, Math.floor(innerWidth * 0.9 / small.width)));
      shown.src = small.src;
      shown.alt = small.alt;
      shown.className = small.className;
      shown.width = small.getAttribute("width") * grow;
      dialog.showModal();
    } else if (event.target === dialog || event.target.closest(".close")) {
      dialog.close();
    }
  });
})();
