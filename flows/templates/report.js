(() => {
  const root = document.documentElement;
  document.getElementById("theme").addEventListener("click", () => {
    const dark = root.dataset.theme
      ? root.dataset.theme === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
  const dialog = document.getElementById("large");
  const view = dialog.querySelector(".window");
  const shown = dialog.querySelector("img");
  const chooser = dialog.querySelector(".frames");
  const slider = chooser.querySelector("input");
  const gap = 4;
  const show = () => {
    const frames = Number(slider.max) || 1;
    const chosen = Number(slider.value);
    const natural = Number(shown.dataset.width);
    const one = (natural - (frames - 1) * gap) / frames;
    const wide = chosen ? one : natural;
    const grow = Math.max(chosen ? 0 : 1, Math.min(4, (innerWidth * 0.9) / wide));
    const scale = grow > 1 && !chosen ? Math.floor(grow) : grow;
    shown.style.width = `${natural * scale}px`;
    shown.style.maxWidth = "none";
    view.style.width = `${Math.min(wide * scale, innerWidth * 0.9)}px`;
    view.style.overflowX = chosen ? "hidden" : "auto";
    view.scrollLeft = 0;
    shown.style.marginLeft = chosen ? `${-(chosen - 1) * (one + gap) * scale}px` : "0";
    chooser.querySelector("span").textContent = chosen ? `frame ${chosen} of ${frames}` : "all frames";
  };
  slider.addEventListener("input", show);
  document.addEventListener("click", (event) => {
    const button = event.target.closest(".zoom");
    if (button) {
      const small = button.querySelector("img");
      shown.src = small.src;
      shown.alt = small.alt;
      shown.dataset.width = small.getAttribute("width");
      slider.max = small.dataset.frames || 1;
      slider.value = 0;
      chooser.hidden = !small.dataset.frames;
      dialog.showModal();
      show();
    } else if (event.target === dialog || event.target.closest(".close")) {
      dialog.close();
    }
  });
  for (const strip of document.querySelectorAll(".over-time")) {
    const figures = strip.querySelectorAll("figure");
    strip.querySelector("input")?.addEventListener("input", (event) => {
      figures.forEach((figure, i) => { figure.hidden = i !== event.target.value - 1; });
    });
  }
  const open = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target && target.tagName === "DETAILS") target.open = true;
  };
  addEventListener("hashchange", open);
  open();
})();
