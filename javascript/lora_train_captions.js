// The Dataset page: how often each tag occurs, and changes to all captions with preview and undo.
(function () {
    "use strict";

    const panel = {element: null, parts: {}, tags: [], busy: false};
    const TAGS_SHOWN = 300;

    // operation: its label, and its fields (name: label, example, choices), made by the page from the table of options
    let EDITS = {};

    const lib = () => window.loraTrain;
    const page = () => window.loraTrain.dataset;
    const make = (...given) => lib().make(...given);

    function build(element) {
        const view = element.closest("#lora_train_dataset");
        EDITS = JSON.parse((view && view.dataset.edits) || "{}");
        const parts = {}, summary = make("summary", "", element, "Captions and tags");
        summary.id = "lora_train_captions";
        const columns = make("div", "columns", element), left = make("div", "column", columns), right = make("form", "column", columns);
        parts.filter = page().labelled(left, "Tags", make("input", "input"));
        parts.filter.type = "search";
        parts.filter.placeholder = "find a tag";
        parts.filter.addEventListener("input", showTags);
        parts.tags = make("ul", "tags", left);
        parts.tags.setAttribute("aria-label", "Tags by frequency");
        parts.operation = page().labelled(right, "Change all captions", make("select", "select"));
        parts.operation.id = "lora_train_edit";
        for (const [name, [label]] of Object.entries(EDITS)) make("option", "", parts.operation, label).value = name;
        parts.operation.addEventListener("change", () => showFields());
        parts.fields = make("div", "fields", right);
        const buttons = make("div", "head", right);
        parts.preview = page().button("button", buttons, "Preview", preview);
        parts.apply = make("button", "button lora-train-primary", buttons, "Change them");
        parts.undo = page().button("button", buttons, "Undo", undo);
        parts.preview.id = "lora_train_edit_preview";
        parts.apply.id = "lora_train_edit_apply";
        parts.undo.id = "lora_train_edit_undo";
        parts.said = make("div", "text", right);
        parts.said.setAttribute("role", "status");
        parts.changes = make("ul", "changes", right);
        const beside = make("div", "head", right);
        page().button("button", beside, "Write captions beside my pictures", writeBeside);
        make("span", "hint", beside, "Until then they are only in the prepared copy. Replaced files are kept as .bak.");
        right.addEventListener("submit", (event) => {
            event.preventDefault();
            apply();
        });
        element.addEventListener("toggle", refresh);
        Object.assign(panel, {element, parts});
        showFields();
    }

    function showFields(values) {
        const [, fields] = EDITS[panel.parts.operation.value] || ["", {}];
        panel.parts.fields.replaceChildren();
        for (const [name, [label, placeholder, choices]] of Object.entries(fields)) {
            const field = page().labelled(panel.parts.fields, label, make(choices ? "select" : "input", choices ? "select" : "input"));
            field.name = name;
            if (choices) for (const [value, text] of Object.entries(choices)) make("option", "", field, text).value = value;
            else field.placeholder = placeholder;
            if (values && values[name] !== undefined) field.value = values[name];
        }
        panel.parts.changes.replaceChildren();
        say("");
    }

    function edits() {
        const edit = {operation: panel.parts.operation.value};
        panel.parts.fields.querySelectorAll("input, select").forEach((field) => { edit[field.name] = field.value; });
        return {edits: [edit]};
    }

    function say(text, bad) {
        panel.parts.said.textContent = text;
        panel.parts.said.classList.toggle("lora-train-error", Boolean(bad));
    }

    // One at a time: the second click of a double click would undo twice, or change captions that are being changed.
    async function guarded(action) {
        if (panel.busy) return;
        panel.busy = true;
        say("Working ...");
        try {
            await action();
        } catch (error) {
            say(error.message, true);
        } finally {
            panel.busy = false;
        }
    }

    function many(count) {
        return count === 1 ? "1 caption" : count + " captions";
    }

    // what an edit does not touch; a picture without a caption matters where something is added to all
    function leftAlone(answer) {
        const skipped = answer.skipped.map((one) => " " + one.file + " is left alone: " + one.reason + ".").join("");
        const without = panel.parts.operation.value === "add" ? answer.uncaptioned : 0;
        return skipped + (without ? " " + (without === 1 ? "1 picture has" : without + " pictures have") + " no caption yet and " + (without === 1 ? "gets" : "get") + " none: write it on the picture's card." : "");
    }

    function preview() {
        return guarded(async () => {
            const answer = await page().ask("/captions/preview", "POST", edits());
            say((answer.total ? many(answer.total) + " would change." : "Nothing would change.") + leftAlone(answer));
            panel.parts.changes.replaceChildren(...answer.changes.map(change));
            if (answer.total > answer.changes.length) make("li", "hint", panel.parts.changes, "and " + (answer.total - answer.changes.length) + " more");
        });
    }

    function split(text) {
        return text.split(",").map((part) => part.trim()).filter(Boolean);
    }

    function change(one) {
        const line = make("li", "change"), before = split(one.before), after = split(one.after);
        make("b", "name", line, one.file);
        const text = make("span", "", line), put = (tag, part) => {
            if (text.childNodes.length) text.append(", ");
            make(tag, "", text, part);
        };
        after.forEach((part) => put(before.includes(part) ? "span" : "ins", part));
        before.filter((part) => !after.includes(part)).forEach((part) => put("del", part));
        return line;
    }

    function apply() {
        return guarded(async () => {
            const answer = await page().ask("/captions/edit", "POST", edits());
            panel.parts.changes.replaceChildren();
            await changed();
            say((answer.changed ? many(answer.changed) + " changed." : "Nothing to change.") + leftAlone(answer));
        });
    }

    function undo() {
        return guarded(async () => {
            const answer = await page().ask("/captions/undo", "POST");
            panel.parts.changes.replaceChildren();
            await changed();
            say("Undone: " + answer.name + ".");
        });
    }

    function writeBeside() {
        if (!window.confirm("Write the captions beside the pictures in " + page().status().folder + "?")) return;
        return guarded(async () => {
            const answer = await page().ask("/captions/beside", "POST");
            say(answer.written ? many(answer.written) + " written beside your pictures." : "All captions are already there.");
        });
    }

    async function changed() {
        await refresh();
        await window.loraTrain.grid.load();
    }

    async function refresh() {
        if (!panel.element || !panel.element.open) return;
        try {
            const answer = await page().ask("/captions/tags");
            panel.tags = answer.tags;
            panel.parts.undo.disabled = !answer.undo;
            panel.parts.undo.textContent = answer.undo ? "Undo: " + answer.undo : "Undo";
        } catch (error) { // no picture is kept
            panel.tags = [];
            panel.parts.undo.disabled = true;
            say(error.message);
        }
        showTags();
    }

    function showTags() {
        const wanted = panel.parts.filter.value.toLowerCase();
        const found = panel.tags.filter(([tag]) => tag.includes(wanted));
        panel.parts.tags.replaceChildren(...found.slice(0, TAGS_SHOWN).map(([tag, count]) => {
            const line = make("li", "");
            const show = page().button("tag", line, tag, () => window.loraTrain.grid.filter({tag}));
            show.title = "Show the pictures with it";
            make("span", "count", line, String(count));
            page().button("small", line, "remove", () => {
                panel.parts.operation.value = "remove";
                showFields({tags: tag});
                preview();
            }).setAttribute("aria-label", "Remove " + tag + " from all captions");
            return line;
        }));
        if (!found.length) make("li", "hint", panel.parts.tags, panel.tags.length ? "No such tag" : "No tags yet");
        if (found.length > TAGS_SHOWN) make("li", "hint", panel.parts.tags, "and " + (found.length - TAGS_SHOWN) + " more");
    }

    function start() {
        if (!lib()) return setTimeout(start, 50);
        lib().captions = {build, refresh};
    }

    start();
})();
