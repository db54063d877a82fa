// A button that fetches a file with the token and hands it to the browser.
import { html } from "../html.js";
import { useShared, useWrite } from "../loading.js";
import { Outcome } from "../ui.js";

/** @param {{path: string}} props */
export function Download({ path }) {
  const { api } = useShared();
  const write = useWrite();
  const download = () =>
    write.run(async () => {
      const { blob, name } = await api.download(api.path(path));
      const link = document.createElement("a");
      link.href = URL.createObjectURL(blob);
      link.download = name;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
      return `Downloaded ${name}.`;
    });
  return html`<button type="button" disabled=${write.isBusy} onClick=${download}>Download as CSV</button><${Outcome} write=${write} />`;
}
