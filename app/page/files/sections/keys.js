// Key: the saved keys as cards, the dialogs of a key, and the form for another one.
import { html } from "../html.js";
import { useRef, useState } from "../vendor/hooks.js";
import { useShared } from "../loading.js";
import { Section } from "../ui.js";
import { CredentialCard, RemoveDialog, RenameDialog } from "../key/credential_card.js";
import { KeyForm } from "../key/key_form.js";
import { LeakedDialog } from "../key/leaked.js";
import { RotationDialog } from "../key/rotation.js";

/** @type {Record<string, unknown>} */
const DIALOGS = { rotate: RotationDialog, leaked: LeakedDialog, rename: RenameDialog, remove: RemoveDialog };

/** @param {{focus: string}} props `rotate:ID` opens that dialog, `credential:ID` shows that card */
export function Keys({ focus }) {
  const { status, may } = useShared();
  const [isAdding, setAdding] = useState(false);
  const [what, id] = focus.split(":");
  const [open, setOpen] = useState({ dialog: what, id });
  // As it was when the dialog opened: the dialog names the key that it changes or removes.
  const subject = useRef(/** @type {import("../types.js").Credential | null} */ (null));
  if (subject.current?.id !== open.id) subject.current = status.credentials.find((it) => it.id === open.id) ?? null;
  const Dialog = DIALOGS[open.dialog];
  const used = status.mode?.mode === "byo" ? status.mode.credential_id : null;
  const scheduled = status.mode?.scheduled?.credential_id ?? null;
  const usageOf = (/** @type {string} */ it) => (it === used ? "used" : it === scheduled ? "scheduled" : "");
  return html`<${Section} title="Key" loaded=${status.loaded}>
    ${status.credentials.length === 0 && !isAdding ? html`<p>No key is saved.</p>` : null}
    ${isAdding
      ? html`<${KeyForm} onClose=${() => setAdding(false)} />`
      : may("credentials:write")
        ? html`<button type="button" class="primary" onClick=${() => setAdding(true)}>Add a key</button>`
        : html`<p class="small">Your role may read keys, but not change them.</p>`}
    ${status.credentials.map((it) => html`<${CredentialCard} key=${it.id} credential=${it} usage=${usageOf(it.id)} isFocused=${it.id === id}
      onOpen=${(/** @type {string} */ dialog) => setOpen({ dialog, id: it.id })} />`)}
    ${Dialog && subject.current
      ? html`<${Dialog} credential=${subject.current} isUsed=${usageOf(subject.current.id) !== ""} onClose=${() => setOpen({ dialog: "", id: "" })} />`
      : null}
  </${Section}>`;
}
