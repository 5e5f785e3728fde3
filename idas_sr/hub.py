"""Saved pipelines for other people: the folder that goes to the Hub, its model card, and the upload."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData, create_repo, upload_folder

ENTRY = "pipeline.py"
"""The file by which diffusers finds our class in a saved folder (``custom_pipeline``)."""
ENTRY_TEXT = '''"""Lets diffusers load this folder: DiffusionPipeline.from_pretrained(..., custom_pipeline=...)."""

from idas_sr.pipeline import IDaSSRPipeline

__all__ = ["IDaSSRPipeline"]
'''
TASK = "image-to-image"
"""The Hub's name of the task; it has none for super-resolution, which is a tag."""
TAGS = ("super-resolution", "image-restoration", "one-step-diffusion", "idas-sr")
CARD = "README.md"
SD_WIDTH = 1024
"""Width of the text tokens of Stable Diffusion 2.x and SD-Turbo; no model of our own has it."""
TITLES = {"psnr_y": "PSNR-Y (BT.601)", "ssim_y": "SSIM-Y (BT.601)", "niqe": "NIQE", "lpips": "LPIPS (AlexNet)"}

BODY = """
# {title}

x4 super-resolution in one step of a diffusion model, with a dial: `realism` 0 is closest to the input and the same for
every seed, 1 has the most detail. Made with `idas_sr`; the Python class is `idas_sr.pipeline.IDaSSRPipeline`.

## Use

```python
from PIL import Image
from idas_sr import IDaSSRPipeline

pipe = IDaSSRPipeline.from_pretrained("{repo}")
restored = pipe(Image.open("photo.jpg"), realism=0.5, seed=42).images[0]
```

Through diffusers, with `idas_sr` installed:

```python
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("{repo}", custom_pipeline="{repo}", trust_remote_code=True)
```

## Results

{results}

## Licence

{licence}
"""


def results_from_scores(name: str, scores: Mapping[str, Any]) -> list[EvalResult]:
    """Rows for a model card from the JSON that ``scripts/evaluate.py score`` or ``run`` wrote.

    Args:
        name: of the test set, as readers know it.
        scores: the file's values: ``mean`` of one folder, or ``rows`` of a benchmark, of which ours are taken.

    Raises:
        ValueError: they hold no means.
    """
    rows = {key: row["mean"] for key, row in scores["rows"].items()} if "rows" in scores else {"": scores.get("mean")}
    results = []
    for row, means in rows.items():
        if row and "realism" not in row:
            continue
        for metric, value in (means or {}).items():
            if value is None:
                continue
            title = TITLES.get(metric, metric)
            results.append(
                EvalResult(
                    task_type=TASK,
                    dataset_type=name.lower().replace(" ", "-"),
                    dataset_name=name,
                    metric_type=metric,
                    metric_name=f"{title}, {row}" if row else title,
                    metric_value=round(float(value), 4),
                )
            )
    if not results:
        raise ValueError(
            f"There are no means for {name!r} in these values; give the JSON that scripts/evaluate.py wrote."
        )
    return results


def make_card(
    repo_id: str,
    license: str = "apache-2.0",
    base_model: str | None = None,
    results: Iterable[EvalResult] = (),
    license_name: str | None = None,
    license_link: str | None = None,
    text: str | None = None,
) -> ModelCard:
    """Model card with the metadata that the Hub reads.

    Args:
        repo_id: OWNER/NAME.
        license: the Hub's identifier of the weights' licence; ``other`` needs ``license_name`` and ``license_link``.
        base_model: Hub id of the model whose weights these stand on; None for one trained from nothing.
        results: rows of results, as from ``results_from_scores``.
        text: Markdown in place of the generated body; metadata of its own are kept where the arguments say nothing.

    Raises:
        ValueError: what ``check_card`` refuses.
    """
    results, title = list(results), repo_id.split("/")[-1]
    facts: dict[str, Any] = {
        "license": license,
        "license_name": license_name,
        "license_link": license_link,
        "base_model": base_model,
        "library_name": "diffusers",
        "pipeline_tag": TASK,
        "model_name": title if results else None,
        "eval_results": results or None,
    }
    if text is None:
        data = ModelCardData(tags=list(TAGS), **facts)
        body = BODY.format(title=title, repo=repo_id, results=_table(results), licence=_licence(data))
        card = ModelCard(f"---\n{data.to_yaml()}\n---\n{body}")
    else:
        card = ModelCard(text)
        for key, value in facts.items():
            if value is not None and (key != "license" or card.data.get("license") is None):
                card.data[key] = value
        card.data["tags"] = list(dict.fromkeys([*(card.data.get("tags") or []), *TAGS]))
    check_card(card)
    return card


def _table(results: list[EvalResult]) -> str:
    if not results:
        return "Not measured yet."
    rows = [f"| {r.dataset_name} | {r.metric_name} | {r.metric_value:g} |" for r in results]
    return "\n".join(["| test set | metric | value |", "|---|---|---|", *rows])


def _licence(data: ModelCardData) -> str:
    name = data.get("license_name") or data.license
    base = f" It stands on {data.base_model}, whose licence holds for it too." if data.base_model else ""
    link = f" ({data.get('license_link')})" if data.get("license_link") else ""
    return f"Weights: {name}{link}.{base} Code of `idas_sr`: Apache-2.0."


def check_card(card: ModelCard) -> None:
    """Refuse a card that the Hub could not file or a reader could not use.

    Raises:
        ValueError: no licence, one called ``other`` without name and link, another task or library than diffusers', or
            results that do not survive being read again.
    """
    again: Any = ModelCard(str(card)).data
    results = card.data.get("eval_results") or []
    if not again.get("license"):
        raise ValueError("The model card names no licence; give license=..., for example apache-2.0.")
    if again.license == "other" and not (again.get("license_name") and again.get("license_link")):
        raise ValueError("A licence called 'other' needs license_name and license_link, so that it can be read.")
    if again.library_name != "diffusers" or again.pipeline_tag != TASK:
        raise ValueError(f"The model card must say library_name: diffusers and pipeline_tag: {TASK}.")
    if (again.eval_results or []) != results:
        raise ValueError("The results in the model card change when they are read again; check their names and values.")


class HubMixin:
    """``save_pretrained`` and ``push_to_hub`` for a DiffusionPipeline; among the bases it stands before that class."""

    def save_pretrained(self, save_directory: str | Path, *args: Any, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write the pipeline's folder, loadable by ``from_pretrained`` here and as a diffusers custom pipeline.

        Args:
            save_directory: folder to write.
            push_to_hub: upload it as well; ``kwargs`` are then ``repo_id`` and the other arguments of ``push_to_hub``.
            args, kwargs: as of ``DiffusionPipeline.save_pretrained``.
        """
        super().save_pretrained(str(save_directory), *args, **({} if push_to_hub else kwargs))  # type: ignore[misc]
        (Path(save_directory) / ENTRY).write_text(ENTRY_TEXT, encoding="utf-8")
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", Path(save_directory).name), **kwargs)

    def save_for_hub(self, folder: str | Path, repo_id: str, **facts: Any) -> ModelCard:
        """Write exactly what ``push_to_hub`` uploads: the pipeline's folder and its model card; no network.

        Args:
            folder: to write to.
            repo_id: OWNER/NAME.
            facts: arguments of ``make_card``.

        Raises:
            ValueError: the card is not complete, or SD-Turbo's weights would go up under a licence that is not theirs.
        """
        unet: Any = getattr(self, "unet", None)
        if unet is not None and unet.config["cross_attention_dim"] == SD_WIDTH and not facts.get("base_model"):
            raise ValueError(
                "These weights stand on Stable Diffusion's; say base_model='stabilityai/sd-turbo' and the licence that "
                "its makers ask for: license='other', license_name=..., license_link=..."
            )
        card = make_card(repo_id, **facts)
        self.save_pretrained(folder)
        card.save(Path(folder) / CARD)
        return card

    def push_to_hub(  # type: ignore[no-untyped-def]
        self,
        repo_id: str,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        create_pr: bool = False,
        revision: str | None = None,
        **facts: Any,
    ) -> str:
        """Upload the pipeline with a model card; what goes up is what ``save_for_hub`` writes.

        Args:
            repo_id: OWNER/NAME; made if it is not there.
            private, token, create_pr, revision: as of huggingface_hub.
            facts: arguments of ``make_card``: license, base_model, results ...

        Returns:
            address of the commit.

        Raises:
            ValueError: what ``save_for_hub`` refuses, before anything is sent.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_for_hub(folder, repo_id, **facts)
            made = create_repo(repo_id, private=private, token=token, exist_ok=True).repo_id
            commit = upload_folder(
                repo_id=made,
                folder_path=folder,
                commit_message=commit_message or "Upload IDaSSRPipeline",
                token=token,
                create_pr=create_pr,
                revision=revision,
            )
        return str(commit)
