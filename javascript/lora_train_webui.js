// What connects the form and the WebUI's own page; the page without a WebUI does not need this.
(function () {
    "use strict";

    const POLL_MS = 1000;
    const {root, ask, keepDoing} = window.loraTrain;
    let base = null, last = null;

    // The base model follows the checkpoint in use: the form is built once, when the WebUI starts.
    async function follow() {
        const button = root().querySelector("#lora_train_model_follow");
        const field = root().querySelector("#lora_train_model");
        if (!button || !field || field.offsetParent === null) {
            base = null; // by the time it is visible again, another page or a reload may have changed it
            return;
        }
        const now = (await ask("base")).path;
        if (now === base) return;
        base = now;
        button.click();
    }

    // The cards of the Lora tab show what was just trained, without pressing its Refresh.
    function refreshCards() {
        for (const tab of ["txt2img", "img2img"]) {
            const button = root().querySelector("#" + tab + "_lora_extra_refresh_internal") // WebUI 1.10
                || root().querySelector("#" + tab + "_lora_extra_refresh") || root().querySelector("#" + tab + "_extra_refresh");
            if (button) button.dispatchEvent(new Event("click"));
        }
    }

    document.addEventListener("lora-train-run", (event) => {
        const run = event.detail || {id: ""};
        const ended = last !== null && (last.id !== run.id || last.running);
        if (ended && !run.running && run.result) refreshCards();
        last = run;
    });

    keepDoing(follow, POLL_MS);
})();
