// A key that others may know: revoke it at Anthropic, replace it here, or stop work.
import { html } from "../html.js";
import { useState } from "../vendor/hooks.js";
import { useShared, useWrite } from "../loading.js";
import { ConfirmByLabel, Dialog, Outcome } from "../ui.js";
import { time } from "../format.js";
import { CONSOLE } from "../words.js";
import { RotationForm } from "./rotation.js";

/** @param {{credential: import("../types.js").Credential, onClose: () => void}} props */
export function LeakedDialog({ credential, onClose }) {
  const { api, refresh, go } = useShared();
  const write = useWrite();
  const [way, setWay] = useState("");
  const path = { credential_id: credential.id };
  const disable = () =>
    write.run(async () => {
      await api.send("post", "provider-credentials/{credential_id}/disable", { path });
      refresh();
      return "Disabled. Work with this key is stopped.";
    });
  const remove = () =>
    write.run(async () => {
      const { data: receipt } = await api.send("delete", "provider-credentials/{credential_id}", { path, query: { force: true } });
      refresh();
      return `Removed at ${time(receipt.deleted_at)}. Versions destroyed: ${receipt.versions_destroyed.join(", ")}.`;
    });
  return html`<${Dialog} title="The key leaked" onClose=${onClose}>
    <ol>
      <li><p>Revoke <code>${credential.key_hint ?? credential.label}</code> at Anthropic first:${" "}
        <a href=${CONSOLE} target="_blank" rel="noreferrer noopener">Anthropic Console, API keys</a>.
        Only that stops others from using it.</p></li>
      <li><p>Replace it here. The new key takes over at once, and the old one is destroyed.</p>
        ${way === "rotate"
          ? html`<${RotationForm} credential=${credential} leaked onClose=${onClose} />`
          : html`<button type="button" class="primary" onClick=${() => setWay("rotate")}>I have a new key</button>`}</li>
      <li><p>No new key yet? Stop work with this key. There is no fallback: all work that uses it stops.</p>
        <div class="buttons"><button type="button" disabled=${write.isBusy} onClick=${disable}>Disable it</button>
          ${way === "remove" ? null : html`<button type="button" onClick=${() => setWay("remove")}>Destroy it</button>`}</div>
        ${way === "remove"
          ? html`<${ConfirmByLabel} label=${credential.label} action="Destroy and stop work" write=${write} onConfirm=${remove} />`
          : html`<${Outcome} write=${write} />`}</li>
    </ol>
    <p>Afterwards, look at what was done with it.</p>
    <div class="buttons">
      <button type="button" onClick=${() => go("usage", `key_version:${credential.id}:${credential.key_version}`)}>Usage of this key</button>
      <button type="button" onClick=${() => go("activity", credential.id)}>Activity of this key</button></div>
  </${Dialog}>`;
}
