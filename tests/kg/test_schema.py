import pytest

from kg import Schema
from kg.errors import SchemaError

RATED = ("User", "RATED", "Movie")


def schema(**changes):
    return Schema(**{"user": "User", "item": "Movie", "interaction": RATED} | changes)


def full():
    return schema(
        text={"Movie": ["title", "plot"], "Person": ["name"]},
        numeric={"Movie": ["year"], "User": ["age"]},
        categorical={"User": ["gender"]},
        key={"Movie": "movieId"},
        edge_types=[("Movie", "DIRECTED_BY", "Person"), RATED],
        weight="rating",
        time="at",
        positive_weight=4,
    )


def test_lists_become_tuples_and_the_interaction_is_not_repeated():
    one = full()
    assert one.text["Movie"] == ("title", "plot")
    assert one.edge_types == (("Movie", "DIRECTED_BY", "Person"),)
    assert one.interaction == RATED


def test_the_key_is_id_where_nothing_is_said():
    assert full().key_of("Movie") == "movieId"
    assert full().key_of("User") == "id"


def test_node_types_start_with_users_and_items():
    assert full().node_types == ("User", "Movie", "Person")


def test_a_schema_survives_toml(tmp_path):
    full().write(tmp_path / "schema.toml")
    assert Schema.read(tmp_path / "schema.toml") == full()


def test_names_with_quotes_spaces_and_backticks_survive_toml(tmp_path):
    odd = Schema(
        user='a "user"', item="it`em\n", interaction=('a "user"', "⭐ = x", "it`em\n"),
        text={"it`em\n": ["the.title"]},
    )  # fmt: skip
    odd.write(tmp_path / "schema.toml")
    assert Schema.read(tmp_path / "schema.toml") == odd


def test_a_schema_survives_its_own_dict_without_optional_parts():
    assert Schema.from_dict(schema().to_dict()) == schema()
    assert "positive_weight" not in schema().to_dict()


def test_completing_adds_only_what_is_new_and_else_gives_the_same_object():
    one = full()
    assert one.completed([RATED, ("Movie", "DIRECTED_BY", "Person")]) is one
    more = one.completed([("Movie", "SEQUEL", "Movie")])
    assert more.edge_types == (*one.edge_types, ("Movie", "SEQUEL", "Movie"))


def test_a_schema_cannot_be_changed():
    one = full()
    with pytest.raises(AttributeError):
        one.user = "Person"
    with pytest.raises(TypeError):
        one.text["Movie"] = ("x",)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"user": ""}, "user must be a non-empty name, got ''"),
        ({"user": "Movie"}, "user and item are both 'Movie'"),
        ({"interaction": "RATED"}, r"must be \(source, relation, target\), got 'RATED'"),
        ({"interaction": ("Movie", "R", "User")}, "must lead from the user type 'User'"),
        ({"text": {"Movie": "title"}}, "text of 'Movie' must be a list of property names"),
        ({"text": ["title"]}, "text must map names to values, got list"),
        ({"numeric": {"M": ["x"]}, "categorical": {"M": ["x"]}}, "M.x is both numeric and cat"),
        ({"edge_types": [("A", "B")]}, r"edge_types must be \(source, relation, target\)"),
        ({"key": {"Movie": 3}}, "key of 'Movie' must be a non-empty name, got 3"),
        ({"positive_weight": "4"}, "positive_weight must be a finite number, got '4'"),
        ({"positive_weight": float("nan")}, "positive_weight must be a finite number, got nan"),
        ({"weight": "time"}, "weight 'time' and time 'time' must be two names"),
        ({"weight": "source"}, "neither 'source' nor 'target'"),
    ],
)
def test_a_contradiction_is_refused(changes, text):
    with pytest.raises(SchemaError, match=text):
        schema(**changes)


@pytest.mark.parametrize(
    ("toml", "text"),
    [
        ("user = ", "schema.toml: Invalid value"),
        ('user = "U"', r"lacks \['interaction', 'item'\]"),
        (
            'user="U"\nitem="I"\ninteraction=["U","R","I"]\nusers="U"',
            "unknown schema entry 'users'",
        ),
        ('user="U"\nitem="I"\ninteraction=["U","R","I"]\n[nodes.U]\ntxt=[]', "unknown entry 'txt'"),
        ('user="U"\nitem="I"\ninteraction=["U","R","I"]\nweight=3', "weight must be a non-empty"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name(tmp_path, toml, text):
    (tmp_path / "schema.toml").write_text(toml)
    with pytest.raises(SchemaError, match=text) as caught:
        Schema.read(tmp_path / "schema.toml")
    assert str(tmp_path) in str(caught.value)
