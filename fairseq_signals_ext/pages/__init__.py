"""Pictures and pages for people: an ECG on its paper, the report on it, the verification's page, the drop page."""
