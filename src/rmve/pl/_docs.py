"""Texts that docstrings of figures share."""

from rmve._docs import shared

documented = shared(
    annotated="""
    adata
        Cells that :meth:`rmve.RMVE.annotate` wrote to.
    key
        Its ``key_added``.
    """,
    ax="""
    ax
        Axes to draw on; ``None`` makes a figure.
    """,
    ax_of_panel="""
    ax
        Axes to draw on; ``None`` makes a figure. For one panel only.
    """,
    axis="""
    axis
        The coordinate.
    """,
    colors="""
    layer
        Layer with the values of genes; ``None`` is ``adata.raw`` or ``adata.X``.
    use_raw
        Whether to take the values of genes from ``adata.raw``. ``None``: if there are any, and no layer is given.
    size
        Area of a point in points², or one for each cell. ``None`` follows from the number of cells.
    cmap
        Colour map of numbers.
    palette
        Colours of categories: the name of a colour map, a list, or a dictionary from category to colour.
    vmin, vmax
        Limits of the scale of numbers: a number, a percentile such as ``"p99"``, or a function of the values. A list has
        one for each panel.
    norm
        Scale of numbers, such as :class:`matplotlib.colors.LogNorm`, in place of limits.
    groups
        Categories to colour, a name or a list of names; cells of others are drawn as cells without a value.
    mask_obs
        Cells to colour: a boolean column of ``adata.obs``, or a boolean for each cell. Others are drawn as cells without a
        value.
    """,
    dot_size="""
    size
        Area of a point in points². ``None`` follows from the number of cells.
    """,
    drawn="""
    The axes; a list of them for several panels; the figure with ``return_fig=True``; ``None`` with ``show=True``.
    """,
    frameon="""
    frameon
        Whether panels have axes and their labels; ``None``: yes.
    """,
    key="""
    key
        Its ``key_added``.
    """,
    mapped="""
    adata
        Cells that :meth:`rmve.RMVE.annotate` wrote to, with a spatial map.
    key
        Its ``key_added``.
    """,
    missing="""
    KeyError
        If a key is missing.
    """,
    na_color="""
    na_color
        Colour of cells without a value.
    """,
    na_in_legend="""
    na_in_legend
        Whether a legend beside the cells has an entry, NA, for those without a value.
    """,
    not_found="""
    KeyError
        If a key is missing, or a name is neither a column nor a gene.
    TypeError
        If scatter takes no such argument.
    """,
    panels="""
    title
        Title of the panel, or a list with one for each. ``None`` is the name of the column or gene.
    ncols
        Panels in a row.
    return_fig
        Whether to return the figure.
    kwargs
        Further arguments of :meth:`matplotlib.axes.Axes.scatter`, such as ``alpha`` or ``marker``.
    """,
    return_fig="""
    return_fig
        Whether to return the figure.
    """,
    show="""
    show
        Whether to show the figure; ``None``: in an interactive session, unless ``ax`` is given.
    save
        File to write.
    """,
    sort_order="""
    sort_order
        Whether cells with larger numbers lie on top of the others, and cells without a value below.
    """,
    spatial_key="""
    spatial_key
        Key of ``adata.obsm`` with the true positions; ``None`` is the one that the model was set up with.
    """,
    unit="""
    unit
        Unit of the coordinates, for the labels. ``None``: pixels of an image, otherwise none.
    """,
)
