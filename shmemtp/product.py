"""A matrix-vector product of the weight stream: how its matrix is cut into tiles and laid in memory.

The matrix's rows are taken in pairs, `pairs_per_block` to a block in order: pair j is block j // pairs_per_block's. Two
pairs are a quad of TILE_ROWS rows, GROUP quads a group. Columns are cut into `splits` of `tile_columns`: a tile is a
quad's rows of one split. A block reads group after group, of a group split after split, of a split quad after quad:
sixteen rows stand together, which a prompt's passes multiply at once (`Product.tile_number`). It fetches `batch` tiles
together, so they stand together in memory, and the blocks' batches side by side:

    [tiles_per_block / batch][grid][batch][TILE_ROWS][tile_columns]        bf16 bits, zeros where the matrix ends

Where `batch` does not divide a block's tiles, the rest of each, a smaller batch, follows in the same way. Of every
COLUMNS columns the second rows of pairs have the two halves swapped, so that two rows of shared memory can be read at
once: the halves that belong together lie in different banks.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

TILE_ROWS = 4  # what one instruction of the tensor cores multiplies: four rows, COLUMNS columns
COLUMNS = 64
GROUP = 4  # device/sequence.py: quads whose tiles of a split stand together
MOST_BATCH, BATCH_BYTES = 4, 16 * 1024  # tiles that are fetched together, and their bytes: what one copy should bring

__all__ = ["COLUMNS", "GROUP", "TILE_ROWS", "Product", "ceil_div", "pack", "product", "round_up", "unpack"]


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
    batch: int = 1

    @property
    def pairs_per_block(self) -> int:
        """Row pairs in each block's share, an even number; the last blocks' may be padding."""
        return round_up(ceil_div(self.pairs, self.grid), TILE_ROWS // 2)

    @property
    def quads_per_block(self) -> int:
        return self.pairs_per_block // (TILE_ROWS // 2)

    @property
    def tiles_per_block(self) -> int:
        return self.quads_per_block * self.splits

    @property
    def tiles(self) -> int:
        """Those that are read, in all blocks: of groups that hold a row of the matrix."""
        blocks, rest = divmod(ceil_div(self.pairs, TILE_ROWS // 2), self.quads_per_block)
        return blocks * self.tiles_per_block + min(round_up(rest, GROUP), self.quads_per_block) * self.splits

    def tile_number(self, quad: int, split: int) -> int:
        """Of the tile of a block's quad and a split in the order in which the block reads them."""
        first = quad // GROUP * GROUP
        return first * self.splits + split * min(GROUP, self.quads_per_block - first) + quad - first

    @property
    def tile_elements(self) -> int:
        return TILE_ROWS * self.tile_columns

    @property
    def elements(self) -> int:
        """What the matrix takes in memory, padding included."""
        return self.tiles_per_block * self.grid * self.tile_elements

    def tile(self, flat: np.ndarray, t: int) -> np.ndarray:
        """Tile `t` of each block: [grid, 2, 2, tile_columns], a view of the matrix in memory."""
        first = t // self.batch * self.batch
        together = min(self.batch, self.tiles_per_block - first)
        size = self.grid * self.tile_elements
        batches = flat[first * size : (first + together) * size]
        return batches.reshape(self.grid, together, 2, 2, self.tile_columns)[:, t - first]


def product(pairs: int, columns: int, grid: int, max_tile_columns: int) -> Product:
    """Cut a matrix of `pairs` row pairs and `columns` columns for `grid` blocks: the fewest splits, of equal width.

    A tile's columns are a multiple of COLUMNS, so `max_tile_columns` must be. The batch depends on that alone, so that
    it is the same for all matrices of a stream.
    """
    if max_tile_columns < COLUMNS or max_tile_columns % COLUMNS:
        raise ValueError(f"max_tile_columns must be a multiple of {COLUMNS}, not {max_tile_columns}")
    splits = ceil_div(columns, max_tile_columns)
    tile_columns = round_up(ceil_div(columns, splits), COLUMNS)
    batch = max(1, min(MOST_BATCH, BATCH_BYTES // (2 * TILE_ROWS * max_tile_columns)))
    return Product(pairs, splits * tile_columns, splits, tile_columns, grid, batch)


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
    if width < product.columns:
        matrix = np.pad(matrix, ((0, 0), (0, 0), (0, product.columns - width)))
    each = product.pairs_per_block
    full = pairs // each  # blocks whose share is all real
    flat = np.zeros(product.elements, np.uint16)
    shares = matrix[: full * each].reshape(full, each // 2, 2, 2, product.columns)
    for quad, split in _tiles(product):
        tile, columns = product.tile(flat, product.tile_number(quad, split)), _columns(product, split)
        _copy(tile[:full], shares[:, quad, :, :, columns])
        rest = matrix[full * each :][2 * quad :][:2, :, columns]
        if len(rest):
            _copy(tile[full, : len(rest)], rest)
    return flat


def unpack(flat: np.ndarray, product: Product) -> np.ndarray:
    """The inverse of `pack`: uint16 [product.pairs, 2, product.columns], the padded columns with it."""
    each = product.pairs_per_block
    pairs = np.empty((product.grid, each // 2, 2, 2, product.columns), np.uint16)
    for quad, split in _tiles(product):
        tile = product.tile(flat, product.tile_number(quad, split))
        _copy(pairs[:, quad, :, :, _columns(product, split)], tile)
    return pairs.reshape(-1, 2, product.columns)[: product.pairs]


def _copy(target: np.ndarray, source: np.ndarray):
    """Rows of pairs, [..., 2, columns], the second ones with their halves swapped."""
    target[..., 0, :] = source[..., 0, :]
    _halves(target[..., 1, :])[..., ::-1, :] = _halves(source[..., 1, :])


def _halves(rows: np.ndarray) -> np.ndarray:
    return rows.reshape(*rows.shape[:-1], rows.shape[-1] // COLUMNS, 2, COLUMNS // 2)


def _tiles(product: Product) -> Iterator[tuple[int, int]]:
    """Quad and split of each of a block's tiles."""
    return itertools.product(range(product.quads_per_block), range(product.splits))


def _columns(product: Product, split: int) -> slice:
    return slice(split * product.tile_columns, (split + 1) * product.tile_columns)
