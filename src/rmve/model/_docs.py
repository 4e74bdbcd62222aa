"""Texts that docstrings of the model share."""

from rmve._docs import shared

documented = shared(
    accelerator="""
    accelerator, devices
        As in PyTorch Lightning.
    """,
    adata="""
    adata
        Cells; ``None`` is the training data.
    """,
    batch_size="""
    batch_size
        Cells in a mini-batch.
    """,
    group_key="""
    group_key
        Column of ``adata.obs`` with the groups of ``scheme="groups"``: donors, sections.
    """,
    indices="""
    indices
        Rows of ``adata``, or a mask; ``None`` is all.
    """,
    model_kwargs="""
    **model_kwargs
        Arguments of :class:`RMVE`.
    """,
    no_cluster="""
    KeyError
        If there is no cluster of a name.
    """,
    no_column="""
    KeyError
        If there is no such column.
    """,
    no_map="""
    RuntimeError
        If there is no map: the model was trained without positions, and :meth:`fit_spatial_map` was not called.
    """,
    not_trained="""
    RuntimeError
        If the model is not trained.
    """,
    not_trained_on_data="""
    RuntimeError
        If the model is not trained, or has no data.
    """,
    reference_model="""
    reference_model
        A trained model, or the folder it was saved in.
    """,
    saved="""
    dir_path, prefix
        As given to :meth:`save`.
    """,
    scvi_kwargs="""
    **kwargs
        Passed to scvi-tools.
    """,
    train_kwargs="""
    train_kwargs
        Arguments of :meth:`train`.
    """,
)
