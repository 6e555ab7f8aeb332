"""Captions: the description of a scene in three languages, with two phrasings each.

They are whole sentences, because CLD3 detects wrong languages in short texts: for each of these it detects the right
one. No two scenes share a caption.
"""

from collections.abc import Callable

from tests.demo.scenes import Colour, Position, Scene, Shape, Texture

LANGUAGES = ("en", "de", "es")


def caption(scene: Scene, language: str, variant: int = 0) -> str:
    """Return a scene's caption in a language of LANGUAGES; even and odd variants are phrased differently.

    Raises:
        KeyError: for a language that is not in LANGUAGES.
    """
    return CAPTIONS[language](scene, variant % 2)


def _english(scene: Scene, variant: int) -> str:
    number = ("one", "two", "three", "four")[scene.count - 1]
    plural = "" if scene.count == 1 else "es" if scene.shape is Shape.CROSS else "s"
    figures = f"{number} {scene.colour} {scene.shape}{plural}"
    place = "in the centre" if scene.position is Position.CENTRE else f"in the {scene.position} corner"
    ground = f"on a {scene.texture} background"
    return (f"A picture of {figures} {place} {ground}", f"We can see {figures} {place}, painted {ground}")[variant]


def _german(scene: Scene, variant: int) -> str:
    singular, plural, gender = {
        Shape.CIRCLE: ("Kreis", "Kreise", "m"),
        Shape.SQUARE: ("Quadrat", "Quadrate", "n"),
        Shape.TRIANGLE: ("Dreieck", "Dreiecke", "n"),
        Shape.STAR: ("Stern", "Sterne", "m"),
        Shape.CROSS: ("Kreuz", "Kreuze", "n"),
        Shape.HEART: ("Herz", "Herzen", "n"),
    }[scene.shape]
    colour = {
        Colour.RED: "rot",
        Colour.ORANGE: "orangefarben",
        Colour.YELLOW: "gelb",
        Colour.GREEN: "grün",
        Colour.BLUE: "blau",
        Colour.PURPLE: "violett",
        Colour.BLACK: "schwarz",
        Colour.WHITE: "weiß",
    }[scene.colour]
    ending = "e" if scene.count > 1 else {"m": "er", "n": "es"}[gender]
    number = ("ein", "zwei", "drei", "vier")[scene.count - 1]
    figures = f"{number} {colour}{ending} {singular if scene.count == 1 else plural}"
    place = {
        Position.CENTRE: "in der Mitte",
        Position.TOP_LEFT: "oben links in der Ecke",
        Position.TOP_RIGHT: "oben rechts in der Ecke",
        Position.BOTTOM_LEFT: "unten links in der Ecke",
        Position.BOTTOM_RIGHT: "unten rechts in der Ecke",
    }[scene.position]
    texture = {
        Texture.PLAIN: "einfarbigen",
        Texture.STRIPED: "gestreiften",
        Texture.CHECKERED: "karierten",
        Texture.DOTTED: "gepunkteten",
        Texture.WAVY: "gewellten",
    }[scene.texture]
    ground = f"vor einem {texture} Hintergrund"
    return (f"Das Bild zeigt {figures} {place} {ground}", f"Hier sieht man {figures} {place}, gemalt {ground}")[variant]


def _spanish(scene: Scene, variant: int) -> str:
    singular, plural, gender = {
        Shape.CIRCLE: ("círculo", "círculos", "o"),
        Shape.SQUARE: ("cuadrado", "cuadrados", "o"),
        Shape.TRIANGLE: ("triángulo", "triángulos", "o"),
        Shape.STAR: ("estrella", "estrellas", "a"),
        Shape.CROSS: ("cruz", "cruces", "a"),
        Shape.HEART: ("corazón", "corazones", "o"),
    }[scene.shape]
    several = scene.count > 1
    end = gender + "s" * several
    colour = {
        Colour.RED: f"roj{end}",
        Colour.ORANGE: "naranjas" if several else "naranja",
        Colour.YELLOW: f"amarill{end}",
        Colour.GREEN: "verdes" if several else "verde",
        Colour.BLUE: "azules" if several else "azul",
        Colour.PURPLE: f"morad{end}",
        Colour.BLACK: f"negr{end}",
        Colour.WHITE: f"blanc{end}",
    }[scene.colour]
    number = ("un" if gender == "o" else "una", "dos", "tres", "cuatro")[scene.count - 1]
    figures = f"{number} {plural if several else singular} {colour}"
    place = {
        Position.CENTRE: "en el centro",
        Position.TOP_LEFT: "en la esquina superior izquierda",
        Position.TOP_RIGHT: "en la esquina superior derecha",
        Position.BOTTOM_LEFT: "en la esquina inferior izquierda",
        Position.BOTTOM_RIGHT: "en la esquina inferior derecha",
    }[scene.position]
    ground = {
        Texture.PLAIN: "sobre un fondo liso",
        Texture.STRIPED: "sobre un fondo de rayas",
        Texture.CHECKERED: "sobre un fondo de cuadros",
        Texture.DOTTED: "sobre un fondo de puntos",
        Texture.WAVY: "sobre un fondo de ondas",
    }[scene.texture]
    return (
        f"La imagen muestra {figures} {place} y está hecha {ground}",
        f"En esta imagen hay {figures} {place} y está pintada {ground}",
    )[variant]


CAPTIONS: dict[str, Callable[[Scene, int], str]] = {"en": _english, "de": _german, "es": _spanish}
