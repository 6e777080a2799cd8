// Copy buttons for pages that are complete without scripts.

import { copyButton } from "./parts.js";

for (const code of document.querySelectorAll("code[data-copy], output")) {
  code.after(copyButton(code.textContent, "Copy"));
}
