"""The environment, as ``recbench doctor`` shows it."""

from __future__ import annotations

from typing import Any


def examine() -> dict[str, Any]:
    """Return versions, devices, caches and datasets, and a list of what is missing or wrong."""
    import shutil

    import torch

    from recbench import __version__
    from recbench.data.cards import card_names, load_card
    from recbench.data.files.fetch import cached
    from recbench.resources import home, mirror
    from recbench.tracking.environment import capture
    from recbench.tracking.mlflow import tracking_uri

    on_cuda = torch.cuda.is_available()
    place = home()
    existing = next(folder for folder in (place, *place.parents) if folder.exists())
    cards = [load_card(name) for name in card_names()]
    findings = []
    if torch.version.cuda and not on_cuda:
        findings.append("this torch is built for CUDA, but finds no device: runs use the CPU")
    return {
        "recbench": __version__,
        "environment": capture("cuda" if on_cuda else "cpu", torch.get_num_threads()),
        "cuda devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cache": str(place),
        "cache free GB": round(shutil.disk_usage(existing).free / 1e9, 1),
        "mirror": mirror(),
        "mlflow store": tracking_uri(),
        "datasets": len(cards),
        "cached datasets": [card.name for card in cards if cached(card)] or "none",
        "findings": findings or "none",
    }
