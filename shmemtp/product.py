"""A matrix-vector product of the weight stream: how its matrix is cut into tiles and laid in memory.

The matrix's rows are taken in pairs, `pairs_per_block` to a block in order: pair j is block j // pairs_per_block's. A
tile is TILE_ROWS rows, two pairs, of `tile_columns` columns; rows are cut into `splits` tiles, and memory holds tile
after tile in the order in which the blocks read them, all blocks side by side:

    [pairs_per_block / 2][splits][grid][TILE_ROWS][tile_columns]        bf16 bits, zeros where the matrix ends

so tile t = local pair // 2 * splits + split of block b starts at element (t * grid + b) * tile_elements.
"""

from dataclasses import dataclass

import numpy as np

TILE_ROWS = 4  # what one instruction of the tensor cores multiplies: four rows, COLUMNS columns
COLUMNS = 64

__all__ = ["COLUMNS", "TILE_ROWS", "Product", "ceil_div", "pack", "product", "round_up", "unpack"]


def ceil_div(count: int, parts: int) -> int:
    """count / parts, rounded up."""
    return -(-count // parts)


def round_up(count: int, multiple: int) -> int:
    """The least multiple of `multiple` that is no less than `count`."""
    return ceil_div(count, multiple) * multiple


@dataclass(frozen=True)
class Product:
    """One matrix's cut. `pairs` are the matrix's own row pairs; `columns` includes the padding of the last split."""

    pairs: int
    columns: int
    splits: int
    tile_columns: int
    grid: int

    @property
    def pairs_per_block(self) -> int:
        """Row pairs in each block's share, an even number; the last blocks' may be padding."""
        return round_up(ceil_div(self.pairs, self.grid), TILE_ROWS // 2)

    @property
    def tiles_per_block(self) -> int:
        return self.pairs_per_block // (TILE_ROWS // 2) * self.splits

    @property
    def tiles(self) -> int:
        """Those that hold a row of the matrix, in all blocks."""
        return ceil_div(self.pairs, TILE_ROWS // 2) * self.splits

    @property
    def tile_elements(self) -> int:
        return TILE_ROWS * self.tile_columns

    @property
    def elements(self) -> int:
        """What the matrix takes in memory, padding included."""
        return self.tiles_per_block * self.grid * self.tile_elements


def product(pairs: int, columns: int, grid: int, max_tile_columns: int) -> Product:
    """Cut a matrix of `pairs` row pairs and `columns` columns for `grid` blocks: the fewest splits, of equal width.

    A tile's columns are a multiple of COLUMNS, so `max_tile_columns` must be.
    """
    if max_tile_columns < COLUMNS or max_tile_columns % COLUMNS:
        raise ValueError(f"max_tile_columns must be a multiple of {COLUMNS}, not {max_tile_columns}")
    splits = ceil_div(columns, max_tile_columns)
    tile_columns = round_up(ceil_div(columns, splits), COLUMNS)
    return Product(pairs, splits * tile_columns, splits, tile_columns, grid)


def pack(matrix: np.ndarray, product: Product) -> np.ndarray:
    """Lay a matrix out for the stream.

    Parameters
    ----------
    matrix
        uint16 [product.pairs, 2, K], K at most `product.columns`.

    Returns
    -------
    uint16 [product.elements], a new array.
    """
    pairs, rows, width = matrix.shape
    if pairs != product.pairs or rows != 2 or width > product.columns:
        raise ValueError(f"a matrix of shape {list(matrix.shape)} does not fit {product}")
    each = product.pairs_per_block
    tiles = np.zeros((each // 2, product.splits, product.grid, 2, 2, product.tile_columns), np.uint16)
    full = pairs // each  # blocks whose share is all real
    for split in range(product.splits):
        columns = matrix[:, :, split * product.tile_columns : (split + 1) * product.tile_columns]
        width = columns.shape[2]
        shares = columns[: full * each].reshape(full, each // 2, 2, 2, width)
        tiles[:, split, :full, :, :, :width] = shares.transpose(1, 0, 2, 3, 4)
        for local, pair in enumerate(range(full * each, pairs)):
            tiles[local // 2, split, full, local % 2, :, :width] = columns[pair]
    return tiles.reshape(-1)


def unpack(flat: np.ndarray, product: Product) -> np.ndarray:
    """The inverse of `pack`: uint16 [product.pairs, 2, product.columns], the padded columns with it."""
    tiles = flat.reshape(product.pairs_per_block // 2, product.splits, product.grid, 2, 2, product.tile_columns)
    pairs = tiles.transpose(2, 0, 3, 4, 1, 5).reshape(-1, 2, product.columns)
    return pairs[: product.pairs]
