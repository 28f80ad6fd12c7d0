from __future__ import annotations

from vmm.tui.source import Page


def row(text: bytes, attribute: int) -> bytes:
    return b"".join(bytes((byte, attribute)) for byte in text.ljust(80))


def test_a_text_screen_takes_the_consoles_place(drive, source):
    async def script(app, press):
        assert not app.page.display
        source.page = Page((row(b"C:\\>\xc4\xc4", 0x1E), row(b"", 0x07)), (0, 4))
        await press()
        await press()
        assert app.page.display
        assert not app.guest_console.display
        strip = app.page.render_line(0)
        assert strip.text.startswith("C:\\>──")
        first = next(iter(strip))
        assert (first.style.color.name, first.style.bgcolor.name) == ("#ffff55", "#0000aa")
        assert [s.text for s in strip if s.style.underline] == ["─"]

    drive(source, script)


def test_the_bit_that_blinks_may_be_a_bright_background(drive, source):
    source.page = Page((row(b"x", 0x9F),), None, blinks=False)

    async def script(app, press):
        await press()
        assert next(iter(app.page.render_line(0))).style.bgcolor.name == "#5555ff"

    drive(source, script)
