#!/usr/bin/env python3
"""Upload a saved pipeline to the Hub with a model card, or write the folder that would go up.

    python scripts/push_to_hub.py my-model OWNER/NAME --folder out/hub                      # nothing is sent
    python scripts/push_to_hub.py my-model OWNER/NAME --results RealSR=out/scores.json
    python scripts/push_to_hub.py my-model OWNER/NAME --base-model stabilityai/sd-turbo --license other \\
        --license-name stabilityai-ai-community --license-link https://huggingface.co/stabilityai/sd-turbo/blob/main/LICENSE.md

Uploading needs a token: `hf auth login`, or the variable HF_TOKEN.
"""

import argparse
import json
import sys
from pathlib import Path

from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

import idas_sr
from idas_sr.hub import results_from_scores
from idas_sr.pipeline import IDaSSRPipeline


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", help="model of this package, or folder of one")
    parser.add_argument("repo_id", metavar="OWNER/NAME")
    parser.add_argument("--method", default="idas", help="adapter to merge (default: %(default)s)")
    parser.add_argument(
        "--sd-path", metavar="FOLDER", help="SD-Turbo's weights, for a model that is an adapter on them"
    )
    parser.add_argument(
        "--card", type=Path, metavar="FILE.md", help="model card of your own in place of the generated one"
    )
    parser.add_argument("--license", default="apache-2.0", help="of the weights (default: %(default)s)")
    parser.add_argument("--license-name", help="with --license other")
    parser.add_argument("--license-link", help="with --license other")
    parser.add_argument("--base-model", metavar="ID", help="Hub id of the model that these weights stand on")
    parser.add_argument(
        "--results", nargs="+", default=[], metavar="NAME=FILE.json", help="JSON written by scripts/evaluate.py"
    )
    parser.add_argument("--revision", help="branch to push to")
    parser.add_argument("--private", action="store_true")
    parser.add_argument("--folder", type=Path, help="write the folder there and send nothing")
    return parser.parse_args(arguments)


def push(args: argparse.Namespace) -> str:
    """Write or upload; returns one line about it.

    Raises:
        ValueError: the model or the card is not complete.
        OSError: a file cannot be read or written.
    """
    results = []
    for entry in args.results:
        name, _, path = entry.partition("=")
        results += results_from_scores(name, json.loads(Path(path).read_text(encoding="utf-8")))
    facts = {
        "license": args.license,
        "license_name": args.license_name,
        "license_link": args.license_link,
        "base_model": args.base_model,
        "results": results,
        "text": args.card.read_text(encoding="utf-8") if args.card else None,
    }
    pipe = IDaSSRPipeline.from_pretrained(args.model, args.method, sd_path=args.sd_path)
    if args.folder is not None:
        pipe.save_for_hub(args.folder, args.repo_id, **facts)
        return f"{args.folder}: what would be uploaded to {args.repo_id}; nothing was sent"
    return pipe.push_to_hub(args.repo_id, private=args.private or None, revision=args.revision, **facts)


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    try:
        print(push(args))
    except OfflineModeIsEnabled:
        sys.exit(f"push_to_hub {idas_sr.__version__}: HF_HUB_OFFLINE is set; unset it, or give --folder.")
    except (ValueError, OSError, HfHubHTTPError) as error:
        sys.exit(f"push_to_hub {idas_sr.__version__}: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
