"use strict";
// Enlarge a figure in a dialog (Escape closes it), copy a command. The page is complete without this script.
(() => {
  const dialog = document.getElementById("enlarged");
  if (dialog && dialog.showModal) {
    const image = document.createElement("img");
    for (const button of document.querySelectorAll("button.enlarge")) {
      button.hidden = false;
      button.addEventListener("click", () => {
        const shown = button.closest("figure").querySelector("img");
        image.src = shown.src;
        image.alt = shown.alt;
        dialog.append(image);
        dialog.showModal();
      });
    }
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog || event.target === image) dialog.close();
    });
  }
  const open = () => {
    const target = document.getElementById(location.hash.slice(1));
    if (target instanceof HTMLDetailsElement) target.open = true;
  };
  addEventListener("hashchange", open);
  open();
  for (const button of document.querySelectorAll("button.copy")) {
    const text = document.getElementById(button.dataset.copies).textContent;
    button.hidden = !navigator.clipboard;
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text);
        button.textContent = "Copied";
      } catch {
        button.textContent = "Select it and press Ctrl-C";
      }
    });
  }
})();
