"""Packs a table of artists into the one file that :class:`erarec.artist.ArtistLibrary` loads.

``python -m erarec.tools.build_library library.csv``. The same table gives the same bytes.
"""

import argparse
import csv
import json
import lzma
from pathlib import Path

from ..artist import LIBRARY, artist_key

# ISO 3166 codes that occur (and SU), as they stand after "from".
COUNTRIES = {
    "AR": "Argentina",
    "AT": "Austria",
    "AU": "Australia",
    "AZ": "Azerbaijan",
    "BB": "Barbados",
    "BE": "Belgium",
    "BG": "Bulgaria",
    "BR": "Brazil",
    "BY": "Belarus",
    "CA": "Canada",
    "CD": "the Congo",
    "CH": "Switzerland",
    "CL": "Chile",
    "CN": "China",
    "CO": "Colombia",
    "CU": "Cuba",
    "CZ": "the Czech Republic",
    "DE": "Germany",
    "DK": "Denmark",
    "DO": "the Dominican Republic",
    "DZ": "Algeria",
    "EE": "Estonia",
    "EG": "Egypt",
    "ES": "Spain",
    "FI": "Finland",
    "FR": "France",
    "GB": "Great Britain",
    "GR": "Greece",
    "HK": "Hong Kong",
    "HR": "Croatia",
    "HU": "Hungary",
    "ID": "Indonesia",
    "IE": "Ireland",
    "IL": "Israel",
    "IN": "India",
    "IS": "Iceland",
    "IT": "Italy",
    "JM": "Jamaica",
    "JP": "Japan",
    "KG": "Kyrgyzstan",
    "KR": "South Korea",
    "KZ": "Kazakhstan",
    "LB": "Lebanon",
    "LT": "Lithuania",
    "LV": "Latvia",
    "MD": "Moldova",
    "ML": "Mali",
    "MX": "Mexico",
    "MY": "Malaysia",
    "NG": "Nigeria",
    "NL": "the Netherlands",
    "NO": "Norway",
    "NZ": "New Zealand",
    "PE": "Peru",
    "PH": "the Philippines",
    "PK": "Pakistan",
    "PL": "Poland",
    "PR": "Puerto Rico",
    "PT": "Portugal",
    "RO": "Romania",
    "RS": "Serbia",
    "RU": "Russia",
    "SE": "Sweden",
    "SG": "Singapore",
    "SI": "Slovenia",
    "SK": "Slovakia",
    "SN": "Senegal",
    "SU": "the Soviet Union",
    "TH": "Thailand",
    "TR": "Turkey",
    "TT": "Trinidad and Tobago",
    "TW": "Taiwan",
    "UA": "Ukraine",
    "US": "the United States",
    "VE": "Venezuela",
    "VG": "the British Virgin Islands",
    "VI": "the Virgin Islands",
    "ZA": "South Africa",
    "": "",
}
YEARS = ("begin", "end", "active_from", "active_to", "first_decade")


def library_columns(rows: list[dict[str, str]]) -> dict[str, list]:
    """The table's facts, one list an attribute of :class:`erarec.artist.Artist`, rows in the table's order.

    Raises KeyError for a country that COUNTRIES does not name.
    """
    columns: dict[str, list] = {
        # Most keys follow from the name.
        "key": ["" if row["artist_key"] == artist_key(row["name"]) else row["artist_key"] for row in rows],
        "name": [row["name"] for row in rows],
        "kind": [row["kind"] for row in rows],
        "country": [COUNTRIES[row["country"]] for row in rows],
    }
    for column in YEARS:
        columns[column] = [int(row[column]) if row[column] else None for row in rows]
    columns["genres"] = [(row["genres"] or row["genre"].lower()).replace(";", ",") for row in rows]
    columns["mention_years"] = [row["mention_years"] for row in rows]
    columns["mentions"] = [int(row["mentions"] or 0) for row in rows]
    columns["release_years"] = [row["release_years"] for row in rows]
    return columns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path, help="library.csv")
    parser.add_argument("--out", type=Path, default=LIBRARY)
    arguments = parser.parse_args()
    with arguments.table.open(encoding="utf-8", newline="") as file:
        columns = library_columns(list(csv.DictReader(file)))
    text = json.dumps(columns, ensure_ascii=False, separators=(",", ":"))
    arguments.out.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))
    print(f"{arguments.out}: {len(columns['name'])} artists, {arguments.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
