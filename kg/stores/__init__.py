"""Stores that speak Cypher: embedded (ladybug) and Neo4j; each loads its driver when it opens."""

from kg.stores.inference import StoreContents
from kg.stores.ladybug import LadybugStore
from kg.stores.neo4j import Neo4jStore
from kg.stores.protocol import Queries, Store, WriteReport

__all__ = ["LadybugStore", "Neo4jStore", "Queries", "Store", "StoreContents", "WriteReport"]
