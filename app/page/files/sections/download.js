// A button that saves a file. The page creates a link that works once; the browser downloads it, so that the page never
// holds a file, however large.
import { html } from "../html.js";
import { useWrite } from "../loading.js";
import { Outcome } from "../ui.js";

/** @param {{create: () => Promise<string>}} props what creates the link; returns its URL */
export function Download({ create }) {
  const write = useWrite();
  const download = () =>
    write.run(async () => {
      const link = document.createElement("a");
      link.href = await create();
      // With `download`, a browser does not leave the page if the file cannot be sent. A host on another origin opens it
      // in a new window instead.
      link.download = "";
      link.target = "_blank";
      link.rel = "noopener noreferrer";
      link.click();
      return "The browser saves the file. If it reports a failure, download again.";
    });
  return html`<button type="button" disabled=${write.isBusy} onClick=${download}>Download as CSV</button><${Outcome} write=${write} />`;
}
