"""FastAPI's ``/docs`` as people use it, by mouse and keyboard. Knows Swagger UI's page only."""

from dataclasses import dataclass

from playwright.sync_api import Locator, Page


@dataclass(frozen=True)
class Docs:
    """The page of an application, in a window of its own."""

    page: Page

    @classmethod
    def of(cls, page: Page, url: str) -> "Docs":
        """Opens it, and waits for it to be drawn."""
        page.goto(f"{url}/docs")
        page.locator(".opblock").first.wait_for()
        return cls(page)

    def scheme(self, name: str) -> Locator:
        """Opens the dialog behind Authorize; tells its part for a scheme."""
        dialog = self.page.locator(".dialog-ux")
        if not dialog.is_visible():
            self.page.locator(".scheme-container").get_by_role("button", name="Authorize").click()
        title = self.page.locator("h4 code").get_by_text(name, exact=True)
        return dialog.locator(".auth-container").filter(has=title)

    def authorize(self, token: str, scheme: str = "APIKey") -> None:
        """Enters a token, clicks Authorize, and leaves the dialog."""
        part = self.scheme(scheme)
        part.locator("input").fill(token)
        part.get_by_role("button", name="Apply credentials").click()
        part.get_by_role("button", name="Remove authorization").wait_for()
        self.close()

    def log_out(self, scheme: str = "APIKey") -> None:
        """Clicks Logout, and leaves the dialog."""
        part = self.scheme(scheme)
        part.get_by_role("button", name="Remove authorization").click()
        part.locator("input").wait_for()
        self.close()

    def close(self) -> None:
        """Leaves the dialog."""
        self.page.locator(".close-modal").click()

    def execute(self, method: str, path: str) -> int:
        """Executes an operation without parameters; tells the status that the page shows."""
        block = self.page.locator(f".opblock-{method}").filter(
            has=self.page.locator(f'[data-path="{path}"]')
        )
        button = block.get_by_role("button", name="Execute")
        if not button.is_visible():
            block.locator(".opblock-summary-control").click()
            block.get_by_role("button", name="Try it out").click()
        clear = block.get_by_role("button", name="Clear")
        if clear.is_visible():  # what it has shown before
            clear.click()
        button.click()
        status = block.locator(".live-responses-table tbody .response-col_status")
        status.first.scroll_into_view_if_needed()
        return int(status.first.inner_text().split()[0])
