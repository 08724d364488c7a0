"""The releases of Elasticsearch and OpenSearch that can be embedded, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...errors import SettingsError
from .artifacts import Artifact, Distribution

# SIMD for vector search.
VECTOR = "jdk.incubator.vector"
_ELASTIC = "org.elasticsearch.distribution.integ-test-zip"
_OPEN = "org.opensearch.distribution.integ-test-zip"


@dataclass(frozen=True)
class Release:
    """A version that can be embedded, and the Java it asks for."""

    distribution: Distribution
    java: int
    modules: frozenset[str]


@dataclass(frozen=True)
class Product:
    """What sets the two servers apart; the newest release comes first."""

    name: str
    title: str
    prefix: str
    releases: Mapping[str, Release]
    settings: Mapping[str, str]


ELASTICSEARCH = Product(
    "elasticsearch",
    "Elasticsearch",
    "ES",
    {
        "9.5.0": Release(
            Distribution(
                "elasticsearch-9.5.0",
                Artifact(
                    _ELASTIC,
                    "elasticsearch",
                    "9.5.0",
                    "db0e275fd790f723eca7bcde96069fd6fed304ad23afdb70c8c09553dd9e8b1b",
                    129_856_182,
                ),
            ),
            java=21,
            modules=frozenset({VECTOR, "jdk.jdi"}),
        ),
        "8.19.21": Release(
            Distribution(
                "elasticsearch-8.19.21",
                Artifact(
                    _ELASTIC,
                    "elasticsearch",
                    "8.19.21",
                    "215d5f3dbf0609a149f6218a9e47b6ae2df34ebbff3c5754e35f15a5e5393c8a",
                    106_871_955,
                ),
            ),
            java=17,
            modules=frozenset({VECTOR, "jdk.jdi"}),
        ),
    },
    {"xpack.security.enabled": "false"},
)
OPENSEARCH = Product(
    "opensearch",
    "OpenSearch",
    "OPENSEARCH",
    {
        "3.6.0": Release(
            Distribution(
                "opensearch-3.6.0-neural",
                Artifact(
                    _OPEN,
                    "opensearch",
                    "3.6.0",
                    "a91faa1dc1cadc78cb278b4f63847e19e1627a4e9de698e14e7efc14ee37b286",
                    161_609_640,
                ),
                {
                    "opensearch-knn": Artifact(
                        "org.opensearch.plugin",
                        "opensearch-knn",
                        "3.6.0.0",
                        "ac392ca28a39b3bf290648a422ef30cb149dda2963a9d7feb26060e932341c9a",
                        6_015_541,
                    ),
                    # Its `hybrid` query: the engine's own fusion.
                    "opensearch-neural-search": Artifact(
                        "org.opensearch.plugin",
                        "neural-search",
                        "3.6.0.0",
                        "6ef1b206e79391e2e36268e32dc34d27fd8b8a59a8eb0a7393c97d53b038e433",
                        12_095_213,
                    ),
                },
            ),
            java=21,
            modules=frozenset(),
        )
    },
    {},
)
PRODUCTS = {product.name: product for product in (ELASTICSEARCH, OPENSEARCH)}


def release(product: Product, version: str | None) -> tuple[str, Release]:
    """A release of a product, the newest by default. Raises SettingsError for one that cannot be embedded."""
    version = version or next(iter(product.releases))
    if version not in product.releases:
        raise SettingsError(
            f"{product.title} {version} cannot be embedded",
            hint=f"choose one of {', '.join(product.releases)}, or connect to a server of your own by its URL",
        )
    return version, product.releases[version]
