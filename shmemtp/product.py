"""A matrix-vector product of the weight stream: how its matrix is cut into tiles and laid in memory.

The matrix's rows are taken in pairs, `pairs_per_block` to a block in order: pair j is block j // pairs_per_block's. A
pair is cut into `splits` tiles of `tile_columns` columns, and memory holds tile after tile in the order in which the
blocks read them, all blocks side by side:

    [pairs_per_block][splits][grid][2 rows][tile_columns]        bf16 bits, zeros where the matrix ends

so tile t = local pair * splits + split of block b starts at element (t * grid + b) * tile_elements.
"""

from dataclasses import dataclass

import numpy as np

__all__ = ["Product", "ceil_div", "pack", "product", "round_up", "unpack"]


def ceil_div(count: int, parts: int) -> int:
    """count / parts, rounded up."""
    return -(-count // parts)


def round_up(count: int, multiple: int) -> int:
    """The least multiple of `multiple` that is no less than `count`."""
    return ceil_div(count, multiple) * multiple


@dataclass(frozen=True)
class Product:
    """One matrix's cut. `pairs` are the matrix's own row pairs; `columns` includes the padding of the last split.

    A block's pairs are a multiple of `multiple`.
    """

    pairs: int
    columns: int
    splits: int
    tile_columns: int
    grid: int
    multiple: int = 1

    @property
    def pairs_per_block(self) -> int:
        """Row pairs in each block's share; the last blocks' may be padding."""
        return round_up(ceil_div(self.pairs, self.grid), self.multiple)

    @property
    def tiles_per_block(self) -> int:
        return self.pairs_per_block * self.splits

    @property
    def tile_elements(self) -> int:
        return 2 * self.tile_columns

    @property
    def elements(self) -> int:
        """What the matrix takes in memory, padding included."""
        return self.tiles_per_block * self.grid * self.tile_elements


def product(pairs: int, columns: int, grid: int, max_tile_columns: int, multiple: int = 1) -> Product:
    """Cut a matrix of `pairs` row pairs and `columns` columns for `grid` blocks: the fewest splits, of equal width.

    `max_tile_columns` is a multiple of 8, so that every tile begins and ends on 16 bytes.
    """
    if max_tile_columns < 8 or max_tile_columns % 8:
        raise ValueError(f"max_tile_columns must be a multiple of 8, not {max_tile_columns}")
    splits = ceil_div(columns, max_tile_columns)
    tile_columns = round_up(ceil_div(columns, splits), 8)
    return Product(pairs, splits * tile_columns, splits, tile_columns, grid, multiple)


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
    tiles = np.zeros((product.pairs_per_block, product.splits, product.grid, 2, product.tile_columns), np.uint16)
    each = product.pairs_per_block
    full = pairs // each  # blocks whose share is all real
    for split in range(product.splits):
        columns = matrix[:, :, split * product.tile_columns : (split + 1) * product.tile_columns]
        width = columns.shape[2]
        shares = columns[: full * each].reshape(full, each, 2, width)
        tiles[:, split, :full, :, :width] = shares.transpose(1, 0, 2, 3)
        if full * each < pairs:
            tiles[: pairs - full * each, split, full, :, :width] = columns[full * each :]
    return tiles.reshape(-1)


def unpack(flat: np.ndarray, product: Product) -> np.ndarray:
    """The inverse of `pack`: uint16 [product.pairs, 2, product.columns], the padded columns with it."""
    tiles = flat.reshape(product.pairs_per_block, product.splits, product.grid, 2, product.tile_columns)
    pairs = tiles.transpose(2, 0, 3, 1, 4).reshape(-1, 2, product.columns)
    return pairs[: product.pairs]
