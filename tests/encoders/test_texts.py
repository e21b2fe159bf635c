import datetime as dt

import pytest

from encoders import node_texts
from encoders.texts import clean, shorten, template_fields
from kg import GraphDelta, KnowledgeGraph, Schema
from kg.errors import MissingColumnError, SchemaError

RATED, GENRE = ("User", "RATED", "Movie"), ("Movie", "HAS_GENRE", "Genre")
SEQUEL, MADE = ("Movie", "SEQUEL_OF", "Movie"), ("User", "MADE", "Movie")
SCHEMA = Schema(
    user="User",
    item="Movie",
    interaction=RATED,
    text={"Movie": ["title", "plot"], "Genre": ["name"]},
)


@pytest.fixture
def graph():
    return KnowledgeGraph.from_tables(
        nodes={
            "User": {"id": ["u1", "u2"], "name": ["Ann", "Bo"]},
            "Movie": {
                "id": ["m1", "m2", "m3"],
                "title": ["Alien", "Solaris?", None],
                "plot": ["A ship meets a guest.", "", None],
                "year": [1979, None, None],
                "tags": [["dark", "space"], [], None],
            },
            "Genre": {"id": [1, 2, 3], "name": ["Horror", "drama", None]},
            "Shop": {"id": ["s"]},
        },
        edges={
            RATED: {"source": ["u1"], "target": ["m1"]},
            GENRE: {"source": ["m1", "m1", "m1", "m3"], "target": [2, 1, 3, 1]},
            SEQUEL: {"source": ["m2"], "target": ["m1"]},
            MADE: {"source": ["u2"], "target": ["m1"]},
        },
        schema=SCHEMA,
    )


def test_properties_are_joined_in_schema_order_and_missing_ones_left_out(graph):
    texts = node_texts(graph, "Movie")
    assert list(texts) == ["Alien. A ship meets a guest.", "Solaris?", ""]
    assert texts.nodes is graph.vocabularies["Movie"]


def test_a_type_without_text_properties_has_empty_texts(graph):
    assert list(node_texts(graph, "Shop")) == [""]
    assert list(node_texts(graph, "User")) == ["", ""]


def test_a_template_names_properties_and_closes_up_around_missing_ones(graph):
    template = "{title} ({year}), tags: {tags}. {plot}"
    assert list(node_texts(graph, "Movie", template=template)) == [
        "Alien (1979), tags: dark, space. A ship meets a guest.",
        "Solaris? tags",
        "",
    ]


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{title} ({year}). {plot}", "Solaris?"),
        ("{year}. {title}", "Solaris?"),
        ("{year}, {title}, {plot}", "Solaris?"),
        ("[{year}] {title}", "Solaris?"),
        ("{{{title}}}", "{Solaris?}"),
        ("{title}. {plot}. Seen?", "Solaris? Seen?"),
        ("Film {id}: {title}", "Film m2: Solaris?"),
        ("Film {id} ({year}), {title}", "Film m2, Solaris?"),
        ("Of {year} is {id}", "Of is m2"),
        ("Film {id}, {plot}.", "Film m2."),
    ],
)
def test_templates_read_well_without_a_value(graph, template, text):
    assert node_texts(graph, "Movie", template=template).of(["m2"]) == [text]


@pytest.mark.parametrize(
    "template",
    ["{title.__class__}", "{title[0]}", "{title!r}", "{title:>10}", "{}", "{title:{year}}"],
)
def test_only_plain_names_stand_in_braces(graph, template):
    with pytest.raises(ValueError, match="expected a property name alone in braces, got"):
        node_texts(graph, "Movie", template=template)


def test_a_brace_left_open_is_an_error():
    with pytest.raises(ValueError, match=r"write \{\{ for a brace"):
        template_fields("{title")


def test_a_property_that_is_not_there_is_named(graph):
    with pytest.raises(MissingColumnError, match="Movie has no property 'budget' to make a text"):
        node_texts(graph, "Movie", template="{budget}")


def test_neighbours_are_named_by_relation_in_sorted_order(graph):
    texts = node_texts(graph, "Movie", neighbours=["HAS_GENRE"])
    assert list(texts) == [
        "Alien. A ship meets a guest. genre: 3, drama, Horror",
        "Solaris?",
        "genre: Horror",
    ]


def test_both_directions_of_a_relation_within_a_type_are_told_apart(graph):
    alien, solaris, _ = node_texts(graph, "Movie", neighbours=[SEQUEL])
    assert alien.endswith("reverse sequel of: Solaris?")
    assert solaris.endswith("? sequel of: Alien")


def test_a_neighbour_may_name_those_that_point_to_it(graph):
    assert list(node_texts(graph, "Genre", neighbours=True)) == [
        "Horror. genre: Alien, m3",
        "drama. genre: Alien",
        "genre: Alien",
    ]


def test_no_text_crosses_from_users_to_items(graph):
    for node_type in ("User", "Movie"):
        everything = " ".join(node_texts(graph, node_type, neighbours=True))
        assert "rated" not in everything
        assert "made" not in everything
    for relation in ("RATED", MADE):
        with pytest.raises(SchemaError, match="would tell what is to be predicted"):
            node_texts(graph, "Movie", neighbours=[relation])


def test_a_relation_that_is_not_there_is_named(graph):
    with pytest.raises(SchemaError, match="Movie has no relation 'ACTED_IN', only"):
        node_texts(graph, "Movie", neighbours=["ACTED_IN"])
    with pytest.raises(TypeError, match="neighbours must be a list of relations"):
        node_texts(graph, "Movie", neighbours="HAS_GENRE")


def test_only_the_first_neighbours_are_named(graph):
    texts = node_texts(graph, "Movie", neighbours=["HAS_GENRE"], max_neighbours=2)
    assert texts.texts[0].endswith("genre: 3, drama")


def test_a_node_that_comes_later_reads_the_same(graph):
    wanted = node_texts(graph, "Movie", neighbours=True).of(["m1"])
    without = graph.apply(GraphDelta(removed_nodes={"Movie": ["m1"]}))
    row = {k: [v[0].as_py()] for k, v in zip(*_row(graph, "m1"), strict=True)}
    again = without.apply(
        GraphDelta(
            nodes={"Movie": row},
            edges={
                GENRE: {"source": ["m1"] * 3, "target": [1, 2, 3]},
                SEQUEL: {"source": ["m2"], "target": ["m1"]},
            },
        )
    )
    assert node_texts(again, "Movie", neighbours=True).of(["m1"]) == wanted


def _row(graph, key):
    table = graph.node_table("Movie").slice(graph.items.row(key), 1)
    return table.column_names, table.columns


def test_an_unknown_node_type_is_named(graph):
    with pytest.raises(SchemaError, match="no nodes of type 'Film', only"):
        node_texts(graph, "Film")


def test_long_texts_are_cut_at_a_space_and_counted(graph, caplog):
    caplog.set_level("INFO", logger="encoders")
    texts = node_texts(graph, "Movie", max_chars=12)
    assert texts.texts[0] == "Alien. A shi"
    assert shorten("one two three", 8) == "one two"
    assert texts.num_cut == 1
    assert "Movie: 1 of 3 texts are longer than 12 characters" in caplog.text


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        ("<p>One</p><p>Two<br/>three</p>", "One Two three"),
        ("<b>T</b>oy &amp; <i class='x'>S</i>tory&nbsp;2", "Toy & Story 2"),
        ("a<script>alert('<b>')</script>b<!-- c -->d<style>p{}</style>", "a b d"),
        ("&lt;p&gt;escaped&lt;/p&gt;", "escaped"),
        ("I <3 you, 2 < 3 > 1 <Unknown> AT&T", "I <3 you, 2 < 3 > 1 <Unknown> AT&T"),
        ("a\x00b\tc\r\nd\u200b\ufeffe\u202e", "a b c de"),
        ("cafe\u0301", "café"),
        ("\ud800 星球\u3000大战", "\ufffd 星球 大战"),
        ("\U0001f468\u200d\U0001f469", "\U0001f468\u200d\U0001f469"),
    ],
)
def test_texts_are_cleaned(raw, wanted):
    assert clean(raw) == wanted


def test_html_that_never_ends_is_read_in_linear_time():
    assert clean("<a " * 100_000).startswith("<a <a")
    assert clean("<script>" * 20_000) == ""


def test_numbers_and_dates_are_written_out():
    graph = KnowledgeGraph.from_tables(
        nodes={
            "User": {"id": ["u"]},
            "Movie": {
                "id": ["m1", "m2"],
                "budget": [30_000_000.0, None],
                "score": [7.25, float("nan")],
                "seen": [dt.datetime(1995, 11, 22), dt.datetime(2001, 1, 2, 3, 4)],
                "tags": [["a", "b"], None],
            },
        },
        edges={RATED: {"source": ["u"], "target": ["m1"]}},
        schema=Schema(user="User", item="Movie", interaction=RATED),
    )
    template = "{budget} dollars, {score}, {seen}, {tags}"
    assert list(node_texts(graph, "Movie", template=template)) == [
        "30000000 dollars, 7.25, 1995-11-22, a, b",
        "dollars, 2001-01-02 03:04:00",
    ]


def test_chinese_texts_are_kept_and_joined_and_closed_up():
    graph = KnowledgeGraph.from_tables(
        nodes={
            "User": {"id": ["甲"]},
            "Movie": {
                "id": ["一", "二"],
                "title": ["<b>流浪地球</b>", "霸王别姬"],
                "plot": ["太阳即将毁灭。", None],
                "year": [2019, None],
            },
        },
        edges={
            RATED: {"source": ["甲"], "target": ["一"]},
            GENRE: {"source": ["一", "一"], "target": ["科幻", "冒险"]},
        },
        schema=Schema(user="User", item="Movie", interaction=RATED, text={"Movie": ["title"]}),
    )
    assert list(node_texts(graph, "Movie", neighbours=["HAS_GENRE"])) == [
        "流浪地球. genre: 冒险, 科幻",
        "霸王别姬",
    ]
    template = "《{title}》（{year}）：{plot}"  # noqa: RUF001
    assert list(node_texts(graph, "Movie", template=template)) == [
        "《流浪地球》（2019）：太阳即将毁灭。",  # noqa: RUF001
        "《霸王别姬》",
    ]


def test_chinese_texts_of_one_subject_are_nearer(minilm):
    space, stars, cook = minilm.encode(["太空 星球 飞船", "星球 太空 大战", "厨师 做 饭"])
    assert space @ stars > space @ cook
