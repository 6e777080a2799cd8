"""A page of Streamlit's: text that changes by its WebSocket, and an upload, which asks for its cookie."""

import streamlit as st  # type: ignore[import-not-found]  # installed apart (scripts/web_judges)

st.title("Judged page")
count = st.session_state.setdefault("count", 0)
if st.button("Count"):
    count = st.session_state.count = count + 1
st.write(f"counted {count}")
if (file := st.file_uploader("A file")) is not None:
    st.write(f"received {len(file.getvalue())} bytes")
