"""Draw the graphical model of RMVE; run from anywhere, writes ``docs/_static/graphical-model.svg``."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Rectangle, Wedge

INK, SHADE, QUIET, REPULSION = "#222222", "#cfd8e3", "#5b6b7d", "#b5431f"
RADIUS = 0.44
OUTPUT = Path(__file__).resolve().parents[1] / "_static" / "graphical-model.svg"


def node(ax, place, label, observed=0.0):
    """A variable; ``observed`` is the shaded share of its circle (0, 0.5 or 1)."""
    ax.add_patch(Circle(place, RADIUS, facecolor="white", edgecolor="none", zorder=3))
    if observed:
        half_turn = 180 * observed
        ax.add_patch(Wedge(place, RADIUS, 90 - half_turn, 90 + half_turn, facecolor=SHADE, zorder=3.5))
    ax.add_patch(Circle(place, RADIUS, facecolor="none", edgecolor=INK, linewidth=1.3, zorder=4))
    ax.text(*place, label, ha="center", va="center", fontsize=14, color=INK, zorder=5)


def parameter(ax, place, label, offset=(0.0, 0.3)):
    """A parameter without a prior: a dot."""
    ax.add_patch(Circle(place, 0.07, facecolor=INK, edgecolor="none", zorder=4))
    ax.text(place[0] + offset[0], place[1] + offset[1], label, ha="center", va="center", fontsize=13, color=INK)


def arrow(ax, start, end, shrink=(RADIUS, RADIUS), bend=0.0, inference=False):
    """An arrow of the generative model, or a dashed one of the inference network."""
    points = 72 * 0.62  # points per data unit, see the figure size below
    ax.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=13,
            shrinkA=shrink[0] * points,
            shrinkB=shrink[1] * points,
            connectionstyle=f"arc3,rad={bend}",
            linewidth=1.3,
            linestyle=(0, (4, 2.5)) if inference else "-",
            color=QUIET if inference else INK,
            zorder=2,
        )
    )


def plate(ax, left, bottom, right, top, label, align="right"):
    """A rectangle around repeated variables."""
    box = FancyBboxPatch(
        (left, bottom),
        right - left,
        top - bottom,
        boxstyle="round,pad=0,rounding_size=0.18",
        facecolor="none",
        edgecolor=QUIET,
        linewidth=1.1,
    )
    ax.add_patch(box)
    x = right - 0.15 if align == "right" else left + 0.15
    ax.text(x, bottom + 0.12, label, ha=align, va="bottom", fontsize=10.5, color=QUIET)


def draw() -> plt.Figure:
    """The whole figure."""
    limits_x, limits_y = (-2.5, 11.1), (-3.7, 4.35)
    fig = plt.figure(figsize=(0.62 * (limits_x[1] - limits_x[0]), 0.62 * (limits_y[1] - limits_y[0])))
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=limits_x, ylim=limits_y)
    ax.axis("off")

    y, z, x = (2.1, 1.9), (4.5, 1.9), (6.9, 1.9)
    batch, library, position = (8.7, 2.75), (8.7, 1.05), (6.9, 0.3)
    weights, components, factor = (-0.3, 1.9), (4.5, -1.75), (-0.3, -1.75)

    plate(ax, 1.2, -0.5, 9.5, 4.15, "cells $n = 1, \\ldots, N$")
    plate(ax, 3.3, -2.75, 5.7, -0.95, "$k = 1, \\ldots, K$")

    node(ax, y, "$y_n$")
    node(ax, z, "$z_n$")
    node(ax, x, "$x_n$", observed=1)
    node(ax, batch, "$s_n$", observed=1)
    node(ax, library, r"$\ell_n$", observed=1)
    node(ax, position, "$r_n$", observed=0.5)
    node(ax, weights, r"$\pi$")
    node(ax, (components[0] - 0.56, components[1] + 0.1), r"$\mu_k$")
    node(ax, (components[0] + 0.56, components[1] + 0.1), r"$\sigma_k^2$")
    parameter(ax, (-1.9, 1.9), r"$\alpha_\pi$")
    parameter(ax, (10.5, 1.9), r"$\theta$")
    parameter(ax, (10.5, 0.3), "$A, b$")

    arrow(ax, (-1.9, 1.9), weights, shrink=(0.07, RADIUS))
    arrow(ax, weights, y)
    arrow(ax, y, z)
    arrow(ax, z, x)
    arrow(ax, batch, x)
    arrow(ax, library, x)
    arrow(ax, z, position)
    arrow(ax, (10.5, 1.9), x, shrink=(0.07, RADIUS))
    arrow(ax, (10.5, 0.3), position, shrink=(0.07, RADIUS))
    arrow(ax, (components[0], -0.95), z, shrink=(0.0, RADIUS))

    arrow(ax, x, z, bend=0.5, inference=True)
    arrow(ax, x, y, bend=0.66, inference=True)
    arrow(ax, y, z, bend=-0.5, inference=True)
    ax.text(4.5, 3.74, "$q(y\\mid x)$", ha="center", va="center", fontsize=11, color=QUIET)
    ax.text(4.5, 2.66, "$q(z\\mid x, y)$", ha="center", va="center", fontsize=11, color=QUIET)

    # the repulsive prior couples all components and their weights
    side = 0.2
    ax.plot([factor[0], weights[0]], [factor[1], weights[1] - RADIUS], color=REPULSION, linewidth=1.3, zorder=1)
    ax.plot([factor[0], 3.3], [factor[1], components[1]], color=REPULSION, linewidth=1.3, zorder=1)
    ax.add_patch(Rectangle((factor[0] - side / 2, factor[1] - side / 2), side, side, facecolor=REPULSION, zorder=3))
    ax.text(factor[0], factor[1] - 0.42, r"$e^{-\tau R}$", ha="center", va="center", fontsize=14, color=REPULSION)

    # legend
    row, small = -3.4, 0.17
    entries = [(0.0, "latent"), (1.0, "observed"), (0.5, "observed for some cells")]
    for left, (share, text) in zip((-2.2, -0.75, 1.0), entries, strict=True):
        ax.add_patch(Circle((left, row), small, facecolor="white", edgecolor="none", zorder=3))
        if share:
            ax.add_patch(Wedge((left, row), small, 90 - 180 * share, 90 + 180 * share, facecolor=SHADE, zorder=3.5))
        ax.add_patch(Circle((left, row), small, facecolor="none", edgecolor=INK, linewidth=1.1, zorder=4))
        ax.text(left + 0.3, row, text, ha="left", va="center", fontsize=10, color=INK)
    for left, dashed, text in ((4.55, False, "generative model"), (7.75, True, "inference network")):
        arrow(ax, (left, row), (left + 0.75, row), shrink=(0, 0), inference=dashed)
        ax.text(left + 0.88, row, text, ha="left", va="center", fontsize=10, color=INK)
    return fig


if __name__ == "__main__":
    plt.rcParams.update({"svg.hashsalt": "rmve", "svg.fonttype": "path", "mathtext.fontset": "cm"})
    OUTPUT.parent.mkdir(exist_ok=True)
    draw().savefig(OUTPUT, transparent=True, metadata={"Date": None})
