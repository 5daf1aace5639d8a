"""A library as a page in the browser: what it shows, and what it lets through.

guard -> app -> worker (the model), media (files and pictures); page.html, page.js and page.css are
what the browser gets.
"""
