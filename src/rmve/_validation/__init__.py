"""Every check of user input, once. Each error says what is wrong, in which key, and what to do."""

from rmve._validation.arguments import (
    check_choice,
    check_flag,
    check_n_components,
    check_n_positions,
    check_names,
    check_number,
    check_positive_int,
    check_prefix,
    check_split,
    check_start,
    check_string,
    check_training_options,
    get_folder,
    get_indices,
)
from rmve._validation.columns import (
    check_columns,
    check_known,
    check_known_covariates,
    check_labels,
    check_same_type,
    get_keys,
    require_column,
)
from rmve._validation.data import (
    check_anndata,
    check_finite,
    check_genes,
    check_structures,
    check_values,
    get_matrix,
)
from rmve._validation.device import check_device
from rmve._validation.places import find_graph, get_coordinates, warn_of_mixed_units
from rmve._validation.results import check_key_added, foreign_names

__all__ = [
    "check_anndata",
    "check_choice",
    "check_columns",
    "check_device",
    "check_finite",
    "check_flag",
    "check_genes",
    "check_key_added",
    "check_known",
    "check_known_covariates",
    "check_labels",
    "check_n_components",
    "check_n_positions",
    "check_names",
    "check_number",
    "check_positive_int",
    "check_prefix",
    "check_same_type",
    "check_split",
    "check_start",
    "check_string",
    "check_structures",
    "check_training_options",
    "check_values",
    "find_graph",
    "foreign_names",
    "get_coordinates",
    "get_folder",
    "get_indices",
    "get_keys",
    "get_matrix",
    "require_column",
    "warn_of_mixed_units",
]
